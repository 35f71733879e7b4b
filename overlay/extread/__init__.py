"""Ext2, ext3 and ext4 images read in place, without mounting, root or FUSE."""
