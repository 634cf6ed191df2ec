"""The settings of each reward, one file each, named like the reward's file in `diffalign/rewards/`."""
