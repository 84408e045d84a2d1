//! The two HTTP ports and the outbound HTTP.

pub mod peer_codec;
