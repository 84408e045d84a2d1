//! What a start finds in the data directory.

use std::sync::Arc;

use super::bootstrap::Bootstrap;
use super::bootstrap_rpc::{PeerList, check_genesis};
use super::data_dir::{DataDir, IdentityConfig, Initialized, whose_log};
use super::error::DataDirError;
use super::restore;
use crate::node::Stored;
use crate::raft::{ClusterId, Entry, MemberId, PROTOCOL};
use crate::store::disk::Disk;
use crate::store::identity::{Identity, IdentityError};
use crate::store::wal::{Wal, WalOptions};

/// What a start finds.
pub enum Opened {
    /// A member of a cluster, its log recovered.
    Initialized(Box<Initialized>),
    /// No log yet: [`Bootstrap::run`] brings the initialization.
    Uninitialized(Box<Bootstrap>),
}

/// Opens the data directory: draws an identity if it is empty, recovers the log of a member, completes an interrupted
/// initialization, and refuses the data of another node.
pub fn open(
    disk: Arc<dyn Disk>,
    options: WalOptions,
    config: &IdentityConfig,
) -> Result<Opened, DataDirError> {
    let log = Wal::identify(&disk);
    let Some(identity) = Identity::load(&*disk)? else {
        if let Some(ids) = log? {
            return Err(DataDirError::NoIdentity { dir: disk.display(""), ids });
        }
        restore::remove_uninitialized(&disk, false)?;
        let member_id = MemberId(disk.nonce().map_err(IdentityError::Random)?);
        let identity = Identity::new(&config.node_id, member_id);
        identity.store(&*disk)?;
        return Ok(uninitialized(disk, options, identity, config));
    };
    identity.check_name(&config.node_id)?;
    let Some(ids) = whose_log(&disk, &identity, log?)? else {
        restore::remove_uninitialized(&disk, true)?;
        return Ok(uninitialized(disk, options, identity, config));
    };
    let cluster_id = ids.cluster_id;
    let (stored, warnings) = Stored::load(disk.clone(), ids, options)?;
    stored.check_program(PROTOCOL)?;
    let no_genesis = |what| DataDirError::NoGenesis { dir: disk.display(""), cluster_id, what };
    let first = stored.first_entry().ok_or_else(|| no_genesis("it has no first entry".to_owned()))?;
    let genesis = check_first(first, cluster_id).map_err(no_genesis)?;
    let mut initialized = Initialized { stored, ids, genesis, warnings, is_new_cluster: false };
    check_configuration(&mut initialized, config)?;
    if identity.cluster_id.is_none() {
        identity.with_cluster(cluster_id).store(&*disk)?;
    }
    Ok(Opened::Initialized(Box::new(initialized)))
}

fn uninitialized(
    disk: Arc<dyn Disk>,
    options: WalOptions,
    identity: Identity,
    config: &IdentityConfig,
) -> Opened {
    let data_dir = DataDir::new(disk, options, identity);
    Opened::Uninitialized(Box::new(Bootstrap::new(data_dir, config)))
}

/// Checks that the first entry is the genesis entry of `cluster_id`.
fn check_first(first: Entry, cluster_id: ClusterId) -> Result<Entry, String> {
    let genesis = check_genesis(&first)?;
    if genesis.cluster_id != cluster_id {
        return Err(format!("entry 1@1 bootstrapped cluster {}", genesis.cluster_id));
    }
    Ok(first)
}

/// Compares the configuration with the stored membership, which wins.
fn check_configuration(initialized: &mut Initialized, config: &IdentityConfig) -> Result<(), DataDirError> {
    let membership = initialized.membership().clone();
    let own = (membership.get(initialized.ids.member_id), config.peers.by_name(&config.node_id));
    if let (Some(stored), Some(configured)) = own
        && stored.raft_addr != configured.raft_addr
        && !config.listen_raft
    {
        return Err(DataDirError::OtherAddress {
            node_id: config.node_id.clone(),
            configured: configured.raft_addr.clone(),
            stored: stored.raft_addr.clone(),
        });
    }
    let stored = PeerList::from(&*membership);
    if !config.joins && stored != config.peers {
        initialized.warnings.push(format!(
            "`peers` in the configuration differ from the stored membership, which wins: {}; correct `peers`",
            config.peers.differences(&stored)
        ));
    }
    Ok(())
}
