"""What `limbeck.encode_file` is made of: rows of input files, files and folders of vectors; and `vectors` in memory."""
