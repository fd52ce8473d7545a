"""What one looks at: the web page, the sweep report, Grafana and Prometheus files. Reads tracking and specs only."""
