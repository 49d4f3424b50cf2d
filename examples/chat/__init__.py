"""A chat service: several aiohttp processes that share their rooms, and lose no message when one of them is killed."""
