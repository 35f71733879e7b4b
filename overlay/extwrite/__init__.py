"""Ext2 and ext3 images written in place through their own journal, without mounting, root or FUSE."""
