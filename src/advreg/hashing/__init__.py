"""Deep hashing: binary codes of images, trained, searched, measured and attacked."""
