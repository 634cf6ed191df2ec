"""What rewards share: preprocessing of pixels, CLIP's towers, weights in a local folder, JPEG files."""
