"""The one place that knows every kind of image, and makes a layer of it."""
