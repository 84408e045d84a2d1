//! The server's command line.

#![forbid(unsafe_code)]

mod cli;
mod cluster;
mod join;
mod recover;
mod run;
mod signals;
mod terminal;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dkv::config::{Config, Joiner, is_same_address};
use join::Join;
use run::End;
use signals::Caught;

use cli::{Cli, Command, JoinArgs};

/// Exit code of a refused configuration.
pub const CONFIG_ERROR: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Some(Command::Cluster { files, program }) => return cluster::run(program.as_deref(), files),
        Some(Command::Recover { config, force_new_cluster, yes }) => {
            return run_to_end(|| recover::run(config, *force_new_cluster, *yes));
        }
        Some(Command::Fsck { data_dir }) => return run_to_end(|| fsck(data_dir)),
        None => {}
    }
    let caught = match Caught::for_node() {
        Ok(caught) => caught,
        Err(error) => return fail(&format_args!("cannot take signals: {error}")),
    };
    let config = match (&cli.join.join, &cli.config) {
        (Some(_), file) => Config::load_to_join(file.as_deref(), &joiner(&cli.join)),
        (None, Some(file)) => Config::load(file),
        (None, None) => Ok(Config::default()),
    };
    let cluster = cli.join.cluster.clone().or_else(|| std::env::var("DKV_CLUSTER").ok());
    let cluster = cluster.map(|id| id.to_ascii_lowercase()).filter(|id| !id.is_empty());
    let join = |through: &String| Join::new(through, cluster.as_deref(), !cli.join.learner);
    let join = cli.join.join.as_ref().map(join).transpose();
    let (config, join) = match (config, join) {
        (Err(error), _) => return refuse(&error),
        (_, Err(error)) => return refuse(&format_args!("--join, --cluster: {error}")),
        (Ok(config), Ok(join)) => (config, join),
    };
    if let Some(refusal) = check_arguments(&cli, &config) {
        return refuse(&refusal);
    }
    if cli.check_config {
        return ExitCode::SUCCESS;
    }
    // What is found to be wrong only now is said like what the file itself shows to be wrong.
    let source = if cli.join.join.is_some() { "the command line" } else { "the defaults" };
    let file = cli.config.as_ref().map_or_else(|| source.to_owned(), |file| file.display().to_string());
    if let Err(error) = dkv::logging::start(&config.log) {
        return refuse(&format_args!("{file}: {error}"));
    }
    let code = match run::run(caught, config, join, cli.restore.as_deref(), cli.exit_with_stdin) {
        Ok(End::Stopped(code)) => code,
        Ok(End::Refused(text)) => refuse(&format_args!("{file}: {text}")),
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    };
    dkv::logging::flush(Duration::from_secs(1));
    code
}

/// What the arguments alone show to be wrong.
fn check_arguments(cli: &Cli, config: &Config) -> Option<String> {
    if let Some(backup) = &cli.restore {
        if dkv::files::is_stream(backup) {
            let text = "--restore: -: standard input is no backup: the backup is verified before it is loaded, and looked at \
                        again by the next start; save it in a file and name that";
            return Some(text.to_owned());
        }
        if let Err(error) = dkv::files::check_name(backup) {
            return Some(format!("--restore: {error}"));
        }
    }
    let through = cli.join.join.as_ref()?;
    let own = &config.me().raft_addr;
    is_same_address(own, through).then(|| {
        format!(
            "--raft-addr: {own}: it is the http_addr of the member that --join names; name the address at which the \
             members reach this node, a port of its own"
        )
    })
}

/// What the command line says in the place of the file; everything else is the file's, or the default.
fn joiner(join: &JoinArgs) -> Joiner {
    Joiner {
        node_id: join.node_id.clone(),
        raft_addr: join.raft_addr.clone(),
        http_addr: join.http_addr.clone(),
        data_dir: join.data_dir.clone(),
    }
}

/// A command that ends by itself.
fn run_to_end(command: impl FnOnce() -> ExitCode) -> ExitCode {
    match signals::watch_command() {
        Ok(()) => command(),
        Err(error) => fail(&format_args!("cannot take signals: {error}")),
    }
}

fn fsck(data_dir: &Path) -> ExitCode {
    if let Err(error) = dkv::files::check_name(data_dir) {
        return refuse(&error);
    }
    match dkv::node::fsck::fsck(data_dir) {
        Ok(report) => {
            // The exit code says it too: a closed pipe changes nothing.
            let _ = write!(std::io::stdout().lock(), "{report}");
            ExitCode::from(report.exit_code())
        }
        Err(error) => refuse(&error),
    }
}

/// Before there is a log.
fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("dkv-server: {error}");
    ExitCode::FAILURE
}

fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("dkv-server: {error}");
    ExitCode::from(CONFIG_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Longer lines are broken by clap wherever they reach the 80th column, and tables with them.
    #[test]
    fn no_line_of_the_help_is_broken_at_80_columns() {
        let cli = Cli::command();
        for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
            let help = command.get_after_long_help().map(|text| text.ansi().to_string()).unwrap_or_default();
            for line in help.replace("\x1b[1m", "").replace("\x1b[4m", "").replace("\x1b[0m", "").lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
    }
}
