"""Model files as they are: what a file says of its framework, versions and inputs, and a project that serves it.

    reading.read_model(path)     a file or a directory -> Model
    projects.write_project(...)  a Model -> app.py, clip.toml and the model's own files
    live.save(...)               a live object of a library -> a file in the library's own format

Files are read as data, within bounds: nothing is unpickled, no framework is imported, no code of a model runs here. A
module for each format says what it recognises and how it reads it.
"""
