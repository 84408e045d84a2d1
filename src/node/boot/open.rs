//! What a start finds in the data directory.

use std::sync::Arc;

use super::birth::{Birthplace, Born, IdentityConfig, whose_log};
use super::birth_record::{PeerList, check_found};
use super::error::BirthError;
use super::founding::Founding;
use super::restore;
use crate::node::Stored;
use crate::raft::{ClusterId, Entry, MemberId, PROTOCOL};
use crate::store::disk::Disk;
use crate::store::identity::{Identity, IdentityError};
use crate::store::wal::{Wal, WalOptions};

/// What a start finds.
pub enum Opened {
    /// A member of a cluster, its log recovered.
    Born(Box<Born>),
    /// No log yet: [`Founding::run`] brings the birth.
    Unborn(Box<Founding>),
}

/// Opens the data directory: draws an identity for an empty one, recovers the log of a member, completes a birth that
/// was cut short, and refuses what is not this node's.
pub fn open(disk: Arc<dyn Disk>, options: WalOptions, config: &IdentityConfig) -> Result<Opened, BirthError> {
    let log = Wal::identify(&disk);
    let Some(identity) = Identity::load(&*disk)? else {
        if let Some(ids) = log? {
            return Err(BirthError::NoIdentity { dir: disk.display(""), ids });
        }
        restore::remove_unborn(&disk, false)?;
        let member_id = MemberId(disk.nonce().map_err(IdentityError::Random)?);
        let identity = Identity::new(&config.node_id, member_id);
        identity.store(&*disk)?;
        return Ok(unborn(disk, options, identity, config));
    };
    identity.check_name(&config.node_id)?;
    let Some(ids) = whose_log(&disk, &identity, log?)? else {
        restore::remove_unborn(&disk, true)?;
        return Ok(unborn(disk, options, identity, config));
    };
    let cluster_id = ids.cluster_id;
    let (stored, warnings) = Stored::load(disk.clone(), ids, options)?;
    stored.check_program(PROTOCOL)?;
    let no_found = |what| BirthError::NoFound { dir: disk.display(""), cluster_id, what };
    let first = stored.first_entry().ok_or_else(|| no_found("it has no first entry".to_owned()))?;
    let found = check_first(first, cluster_id).map_err(no_found)?;
    let mut born = Born { stored, ids, found, warnings };
    check_configuration(&mut born, config)?;
    if identity.cluster_id.is_none() {
        identity.with_cluster(cluster_id).store(&*disk)?;
    }
    Ok(Opened::Born(Box::new(born)))
}

fn unborn(disk: Arc<dyn Disk>, options: WalOptions, identity: Identity, config: &IdentityConfig) -> Opened {
    let place = Birthplace::new(disk, options, identity);
    Opened::Unborn(Box::new(Founding::new(place, config)))
}

/// The found entry of `cluster_id`, which every history begins with.
fn check_first(first: Entry, cluster_id: ClusterId) -> Result<Entry, String> {
    let found = check_found(&first)?;
    if found.cluster_id != cluster_id {
        return Err(format!("entry 1@1 founded cluster {}", found.cluster_id));
    }
    Ok(first)
}

/// Compares the configuration with the stored membership, which wins.
fn check_configuration(born: &mut Born, config: &IdentityConfig) -> Result<(), BirthError> {
    let membership = born.membership().clone();
    let own = (membership.get(born.ids.member_id), config.peers.by_name(&config.node_id));
    if let (Some(stored), Some(configured)) = own
        && stored.raft_addr != configured.raft_addr
        && !config.listen_raft
    {
        return Err(BirthError::OtherAddress {
            node_id: config.node_id.clone(),
            configured: configured.raft_addr.clone(),
            stored: stored.raft_addr.clone(),
        });
    }
    let stored = PeerList::from(&*membership);
    if !config.joins && stored != config.peers {
        born.warnings.push(format!(
            "`peers` in the configuration differ from the stored membership, which wins: configured {}, stored {stored}",
            config.peers
        ));
    }
    Ok(())
}
