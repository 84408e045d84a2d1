//! `dkv-cli lease`: granted, renewed, kept, revoked, shown.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use dkv::api::{KeyName, LeaseInfo, LeaseShown, LeasesReply, MAX_LEASES_LIMIT};
use dkv::client::{Client, ClientError, LeasePage, WriteOptions};
use dkv::vocabulary::LeaseId;

use crate::cli::Lease;
use crate::failure::Failure;
use crate::output::Printer;
use crate::text::printable;

/// How long `keep` waits after nobody answered.
const KEEP_RETRY: Duration = Duration::from_millis(200);

/// Runs a `lease` command.
pub fn run(client: &Client, command: &Lease, printer: &Printer) -> Result<(), Failure> {
    let options = WriteOptions::default();
    match command {
        Lease::Grant { ttl, id } => {
            let granted = client.grant_lease(*ttl, *id, &options)?.reply;
            match printer.is_json() {
                true => printer.json(&granted),
                false => printer.bytes(format!("{}\n", granted.lease).as_bytes()),
            }
        }
        Lease::Renew { id } => {
            let renewed = client.renew_lease(*id)?;
            match printer.is_json() {
                true => printer.json(&renewed),
                false => {
                    printer.bytes(format!("{} lives for {} s\n", renewed.lease, renewed.ttl_s).as_bytes())
                }
            }
        }
        Lease::Keep { id } => keep(client, *id),
        Lease::Revoke { id } => {
            let revoked = client.revoke_lease(*id, &options)?.reply;
            match printer.is_json() {
                true => printer.json(&revoked),
                false => {
                    printer.bytes(format!("{id} is revoked, {} gone\n", keys(revoked.deleted)).as_bytes())
                }
            }
        }
        Lease::Show { id } => show(client, *id, printer),
        Lease::List => list(client, printer),
    }
}

/// Renews it until it is over, or until nobody has answered for as long as it lives.
fn keep(client: &Client, id: LeaseId) -> Result<(), Failure> {
    let mut lives_until = None;
    loop {
        let sent = Instant::now();
        let wait = match client.renew_lease(id) {
            Ok(renewed) => {
                let ttl = Duration::from_secs(renewed.ttl_s);
                lives_until = Some(sent + ttl);
                ttl / 3
            }
            Err(error @ (ClientError::Unavailable(_) | ClientError::Unknown { .. }))
                if lives_until.is_some_and(|end| Instant::now() < end) =>
            {
                eprintln!("not renewed, trying again: {error}");
                KEEP_RETRY
            }
            Err(error) => return Err(error.into()),
        };
        std::thread::sleep(wait);
    }
}

fn whole_page() -> LeasePage {
    LeasePage { limit: Some(MAX_LEASES_LIMIT), ..LeasePage::default() }
}

fn show(client: &Client, id: LeaseId, printer: &Printer) -> Result<(), Failure> {
    let mut page = whole_page();
    let mut whole: Option<LeaseShown> = None;
    loop {
        let Some(shown) = client.lease(id, Some(&page))? else { return Err(Failure::no_lease(id)) };
        page.cursor.clone_from(&shown.cursor);
        match &mut whole {
            None => whole = Some(shown),
            Some(whole) => {
                whole.cursor = None;
                whole.keys.get_or_insert_default().extend(shown.keys.unwrap_or_default());
            }
        }
        if page.cursor.is_none() {
            break;
        }
    }
    let Some(whole) = whole else { return Err(Failure::no_lease(id)) };
    if printer.is_json() {
        return printer.json(&whole);
    }
    let mut text = line(&whole.lease);
    for KeyName(key) in whole.keys.iter().flatten() {
        // A String takes everything.
        let _ = writeln!(text, "\t{}", printable(key));
    }
    printer.bytes(text.as_bytes())
}

fn list(client: &Client, printer: &Printer) -> Result<(), Failure> {
    let mut page = whole_page();
    let mut whole: Option<LeasesReply> = None;
    loop {
        let reply = client.leases(&page)?;
        page.cursor.clone_from(&reply.cursor);
        match &mut whole {
            None => whole = Some(reply),
            Some(whole) => {
                whole.cursor = None;
                whole.leases.extend(reply.leases);
            }
        }
        if page.cursor.is_none() {
            break;
        }
    }
    let Some(whole) = whole else { return Ok(()) };
    if printer.is_json() {
        return printer.json(&whole);
    }
    let text: String = whole.leases.iter().map(line).collect();
    printer.bytes(text.as_bytes())
}

/// How many keys.
fn keys(count: u64) -> String {
    format!("{count} {}", if count == 1 { "key" } else { "keys" })
}

/// Id, time to live, what is left of it, number of keys; tabs between them.
fn line(lease: &LeaseInfo) -> String {
    let LeaseInfo { lease, ttl_s, remaining_ms, own, key_count } = lease;
    let own = if *own { "\town" } else { "" };
    format!(
        "{lease}\t{ttl_s} s\t{}.{} s left\t{}{own}\n",
        remaining_ms / 1_000,
        remaining_ms % 1_000 / 100,
        keys(*key_count)
    )
}
