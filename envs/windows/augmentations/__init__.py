"""Random changes of training pictures: one operation a file, found by name (`augmentation=`, `augment_order=`).

Colours follow Albumentations and torchvision in [0, 1], clipped after each operation; where tf.image, in the JAX
original of bridge_data_v2, does something else, the operation says so.
"""
