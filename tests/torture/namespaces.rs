//! Members in network namespaces of their own, around a router in another one: a cut is a route that leads nowhere, so
//! packets vanish as they do in a network, whatever connections there are. Needs root.
//!
//! ```text
//! this machine 10.a.b.2 --- 10.a.b.1 router --- 10.a.b.11 node1
//!                                          \--- 10.a.b.12 node2 ...
//! ```

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The namespaces of one cluster; gone when it is dropped.
pub struct Namespaces {
    /// Begins every name, at most 12 bytes.
    name: String,
    /// First three bytes of every address.
    net: String,
    size: usize,
}

impl Namespaces {
    /// Makes the namespaces for `size` members and the links between them.
    pub fn make(size: usize) -> io::Result<Namespaces> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("dkv{pid}-{}", next % 100);
        let net = format!("10.{}.{}", 100 + pid % 100, (pid / 100 + next) % 250);
        let made = Namespaces { name, net, size };
        made.build()?;
        Ok(made)
    }

    fn build(&self) -> io::Result<()> {
        let Namespaces { name, net, size } = self;
        let router = self.router();
        let mut script = format!(
            "netns add {router}\nlink add {name} type veth peer name outside netns {router}\nlink set {name} up\n\
             addr add {net}.2/32 dev {name}\nroute add {net}.1 dev {name}\n\
             route add {net}.0/24 via {net}.1 dev {name} src {net}.2\n"
        );
        (0..*size).for_each(|n| script += &format!("netns add {}\n", self.namespace(n)));
        batch(&[], &script)?;
        let mut script = format!(
            "link set lo up\naddr add {net}.1/32 dev lo\nlink set outside up\nroute add {net}.2/32 dev outside\n"
        );
        for n in 0..*size {
            script += &format!(
                "link add v{n} type veth peer name eth0 netns {}\nlink set v{n} up\nroute add {}/32 dev v{n}\n",
                self.namespace(n),
                self.host(n)
            );
        }
        batch(&["-n", &router], &script)?;
        let forward = ["netns", "exec", &router, "sysctl", "-qw", "net.ipv4.ip_forward=1"];
        check(Command::new("ip").args(forward).status()?)?;
        for n in 0..*size {
            let script = format!(
                "link set lo up\nlink set eth0 up\naddr add {}/32 dev eth0\nroute add {net}.1 dev eth0\n\
                 route add default via {net}.1 dev eth0\n",
                self.host(n)
            );
            batch(&["-n", &self.namespace(n)], &script)?;
        }
        Ok(())
    }

    fn router(&self) -> String {
        format!("{}r", self.name)
    }

    /// Name of the namespace of a member.
    pub fn namespace(&self, n: usize) -> String {
        format!("{}n{n}", self.name)
    }

    /// Address of a member.
    pub fn host(&self, n: usize) -> String {
        format!("{}.{}", self.net, 11 + n)
    }

    /// Lets nothing through from one member to another, or everything again.
    pub fn cut(&self, from: usize, to: usize, is_cut: bool) -> io::Result<()> {
        let verb = if is_cut { "add" } else { "del" };
        let (from, to) = (self.host(from), self.host(to));
        batch(&["-n", &self.router()], &format!("rule {verb} from {from} to {to} blackhole\n"))
    }
}

/// Lets `ip` do every line of the script.
fn batch(args: &[&str], script: &str) -> io::Result<()> {
    let mut ip = Command::new("ip").args(args).args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    ip.stdin.take().expect("piped").write_all(script.as_bytes())?;
    check(ip.wait()?)
}

fn check(status: std::process::ExitStatus) -> io::Result<()> {
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ip: {status}"))) }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // The links end with the namespaces; those of the members with the router's.
        let names = (0..self.size).map(|n| self.namespace(n)).chain([self.router()]);
        for name in names {
            let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        }
    }
}
