//! What a session sees: the plan (pure data) and the entry (a re-exec of our own binary).
