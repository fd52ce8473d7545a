"""Trained policies behind an address: what they are asked over HTTP and WebSocket, and a client for robots."""
