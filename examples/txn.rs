//! A transfer between two accounts: it happens once, wholly or not at all, whatever else is written meanwhile.
//!
//! ```sh
//! cargo run --example txn 127.0.0.1:8081
//! ```

use std::process::ExitCode;
use std::time::Duration;

use dkv::api::TxnResult;
use dkv::client::{Client, ClientError, Step, Txn, When, WriteOptions};

/// Times that a transfer is tried when others change the accounts meanwhile.
const ATTEMPTS: usize = 100;

fn main() -> ExitCode {
    let endpoints: Vec<String> = std::env::args().skip(1).collect();
    let done = Client::new(&endpoints, Duration::from_secs(10)).and_then(|client| run(&client));
    match done {
        Ok((ann, bob)) => {
            println!("ann has {ann}, bob has {bob}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Opens two accounts, moves 30 from the one to the other, and says what they have.
pub fn run(client: &Client) -> Result<(u64, u64), ClientError> {
    client.put(b"account/ann", b"100", &WriteOptions::default())?;
    client.put(b"account/bob", b"0", &WriteOptions::default())?;
    assert!(transfer(client, b"account/ann", b"account/bob", 30)?);
    assert!(!transfer(client, b"account/ann", b"account/bob", 1_000)?, "there is not so much");
    balances(client, b"account/ann", b"account/bob")
}

/// Moves an amount. False: there is not so much, and nothing was moved.
pub fn transfer(client: &Client, from: &[u8], to: &[u8], amount: u64) -> Result<bool, ClientError> {
    for _ in 0..ATTEMPTS {
        let (has, other) = balances(client, from, to)?;
        let Some(rest) = has.checked_sub(amount) else { return Ok(false) };
        let txn = Txn::new()
            .when(When::key(from).value_is(has.to_string().as_bytes()))
            .when(When::key(to).value_is(other.to_string().as_bytes()))
            .then(Step::put(from, rest.to_string().as_bytes()))
            .then(Step::put(to, (other + amount).to_string().as_bytes()));
        if client.txn(&txn, None)?.reply.succeeded {
            return Ok(true);
        }
        // Somebody was faster: look again.
    }
    Err(ClientError::Unavailable("the accounts change all the time".to_owned()))
}

/// What both accounts have at one moment.
pub fn balances(client: &Client, one: &[u8], other: &[u8]) -> Result<(u64, u64), ClientError> {
    let read = client.txn(&Txn::new().then(Step::get(one)).then(Step::get(other)), None)?;
    let balance = |at: usize| match read.reply.results.get(at) {
        Some(TxnResult::Get(Some(record))) => {
            std::str::from_utf8(&record.value).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
        }
        _ => 0,
    };
    Ok((balance(0), balance(1)))
}
