"""Finding subjects and telling identities apart without downloaded weights."""
