//! The peer port: the format of its bodies, which senders are admitted, and the calls to the other members.

mod api;
mod client;
pub mod codec;
mod link;

pub use api::{Member, PeerAnswer, PeerApi};
pub use client::{HttpBootstrap, HttpPeers};
pub use codec::LinkKind;
pub use link::frame as link_frame;
