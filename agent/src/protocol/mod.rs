//! Wire protocols: each folder decodes one, in the same shape (`codec`, `session`, `operation`).

pub mod postgres;
