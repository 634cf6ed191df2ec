"""Pictures that a policy makes while it trains: for which prompts, from which noise, and what rewards say of them."""
