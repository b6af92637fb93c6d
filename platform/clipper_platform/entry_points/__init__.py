"""What `clip` runs of the platform, named in pyproject.toml under "clipper.platform": plain data in, plain data out."""
