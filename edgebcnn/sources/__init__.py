"""Where frames come from: cameras, streams, videos and folders of photos."""
