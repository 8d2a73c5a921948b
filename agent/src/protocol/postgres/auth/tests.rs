//! Both sides against each other, and against peers that misbehave.
