"""Which labels lie where: the index files of meshing tasks, and the database tables made of them."""
