"""What training samples from a store: windows of episodes, goals, saliency maps, augmentation."""
