"""What a recipe needs on devices that are not here: memory, communication, and what speed cannot be exceeded.

A step is run on a few samples, with weights that have no memory and products that are not computed, and what autograd would keep is
counted. Nothing of this runs on the devices: peaks and interconnects are those that their vendors publish.
"""
