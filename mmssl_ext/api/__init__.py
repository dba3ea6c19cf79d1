"""Own images in three lines; what ``mmssl_ext.pretrain`` and its kin do."""
