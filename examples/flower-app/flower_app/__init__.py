"""The federation flower-app, over Flower."""
