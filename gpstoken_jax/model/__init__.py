"""The networks: image -> tokens -> feature map -> image."""
