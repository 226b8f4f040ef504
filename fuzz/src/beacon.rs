//! What anyone on the network may send as a beacon: see [`::beacon::fuzz`].

pub use ::beacon::fuzz::run;
