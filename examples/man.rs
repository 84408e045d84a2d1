//! Writes the manual pages of both programs into a directory: `make man`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

#[path = "../src/bin/dkv-cli/cli/mod.rs"]
#[allow(dead_code, unused_imports)] // The program uses the rest.
mod client;
#[path = "../src/bin/dkv-server/cli.rs"]
mod server;

fn main() -> io::Result<()> {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: man DIRECTORY"));
    };
    fs::create_dir_all(&dir)?;
    for program in [client::Cli::command(), server::Cli::command()] {
        let mut program = program.disable_help_subcommand(true);
        program.build();
        write_pages(&program, None, &dir)?;
    }
    println!("manual pages are in {}; try: man -l {0}/dkv-cli.1", dir.display());
    Ok(())
}

/// The page of a command, and those of its own commands.
fn write_pages(command: &Command, parent: Option<&Command>, dir: &Path) -> io::Result<()> {
    write_page(command, parent, dir)?;
    command.get_subcommands().try_for_each(|sub| write_pages(sub, Some(command), dir))
}

/// One page: clap's sections, then those of the long help, whose examples must keep their lines.
fn write_page(command: &Command, parent: Option<&Command>, dir: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let source = format!("dkv {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name.to_uppercase()).source(source).manual("dkv");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let help = command.get_after_long_help().map(|help| help.to_string()).unwrap_or_default();
    page.extend_from_slice(help_sections(&help).as_bytes());
    if let Some(parent) = parent {
        let see = format!(".SH \"SEE ALSO\"\n\\fB{}\\fR(1)\n", escape(parent.get_name()));
        page.extend_from_slice(see.as_bytes());
    }
    fs::write(dir.join(format!("{name}.1")), page)
}

/// A line without indentation that ends in a colon is a heading; the rest is printed as it stands.
fn help_sections(help: &str) -> String {
    let mut text = String::new();
    for line in help.lines() {
        match line.strip_suffix(':').filter(|l| !l.starts_with(' ')) {
            Some(heading) => {
                let end = if text.is_empty() { "" } else { ".fi\n" };
                text.push_str(&format!("{end}.SH \"{}\"\n.nf\n", heading.to_uppercase()));
            }
            None => text.push_str(&format!("{}\n", escape(line.strip_prefix("  ").unwrap_or(line)))),
        }
    }
    if !text.is_empty() {
        text.push_str(".fi\n");
    }
    text
}

/// Text in which roff finds no commands, and which can be copied from the page into a shell.
fn escape(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga");
    let line = line.replace('~', "\\(ti").replace('^', "\\(ha").replace('"', "\\(dq");
    if line.starts_with('.') { format!("\\&{line}") } else { line }
}
