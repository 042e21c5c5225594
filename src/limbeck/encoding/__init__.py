"""What `limbeck.encode_file` is made of: rows of input files, files of vectors, folders of them."""
