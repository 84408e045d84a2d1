//! The peer port: what its bodies look like, who is let in, and the calls to the other members.

mod api;
mod client;
pub mod codec;

pub use api::{Member, PeerAnswer, PeerApi};
pub use client::{HttpBootstrap, HttpPeers};
