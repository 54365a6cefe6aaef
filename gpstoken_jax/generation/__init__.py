"""Images from nothing: layouts first, then the tokens on them."""
