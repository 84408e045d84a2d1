//! What is done between the members.

use std::time::Duration;

use fastrand::Rng;

use super::cluster::Addresses;
use super::kind::Kind;
use super::nemesis::Clock;
use super::plan::RoundPlan;
use super::proxy::{Cut, Fault, Links};
use super::report::Report;

/// Puts one fault after the other between the members until the round is over, then makes every link whole.
pub fn run(plan: &RoundPlan, links: &Links, addresses: &Addresses, clock: &Clock, report: &Report) {
    let mut rng = Rng::with_seed(plan.seed ^ 0x6e65_7477);
    for &kind in plan.network.iter().cycle() {
        if !clock.pause(Duration::from_millis(rng.u64(200..2_500))) {
            break;
        }
        let mut net = Net { links, addresses, clock, rng: &mut rng };
        if net.act(kind) {
            report.installed(kind);
            if links.namespace(0).is_some() {
                report.installed(Kind::RealCut);
            }
        } else {
            report.skipped(kind, "there was no leader to cut off");
        }
        links.heal();
    }
    links.heal();
}

struct Net<'a> {
    links: &'a Links,
    addresses: &'a Addresses,
    clock: &'a Clock<'a>,
    rng: &'a mut Rng,
}

impl Net<'_> {
    fn act(&mut self, kind: Kind) -> bool {
        let seats = self.addresses.taken();
        let any = seats[self.rng.usize(0..seats.len())];
        match kind {
            Kind::Isolate => self.isolate(any),
            Kind::IsolateLeader => match self.addresses.leader() {
                Some(leader) => self.isolate(leader),
                None => return false,
            },
            Kind::Split => {
                let mut order = seats;
                self.rng.shuffle(&mut order);
                let (left, right) = order.split_at(self.rng.usize(1..order.len()));
                let cut = self.cut();
                for (&a, &b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
                    self.both(a, b, cut);
                }
            }
            Kind::OneWay => {
                // All that one member says, or all that it hears.
                let (cut, says) = (self.cut(), self.rng.bool());
                for other in seats.into_iter().filter(|&n| n != any) {
                    let (from, to) = if says { (any, other) } else { (other, any) };
                    self.links.set(from, to, Fault { cut: Some(cut), ..Fault::default() });
                }
            }
            Kind::Bridge => {
                // Two groups that do not see each other, and one member that both see.
                let cut = self.cut();
                let others: Vec<usize> = seats.into_iter().filter(|&n| n != any).collect();
                let (left, right) = others.split_at(others.len() / 2);
                for (&a, &b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
                    self.both(a, b, cut);
                }
            }
            Kind::SomeLinks => {
                for (from, to) in self.pairs() {
                    if self.rng.u8(0..3) == 0 {
                        let fault = Fault { cut: Some(self.cut()), ..Fault::default() };
                        self.links.set(from, to, fault);
                    }
                }
            }
            Kind::Flap => {
                let others: Vec<usize> = seats.into_iter().filter(|&n| n != any).collect();
                let other = others[self.rng.usize(0..others.len())];
                let cut = self.cut();
                for _ in 0..self.rng.u32(4..12) {
                    self.both(any, other, cut);
                    self.clock.pause(Duration::from_millis(self.rng.u64(100..500)));
                    self.links.heal();
                    self.clock.pause(Duration::from_millis(self.rng.u64(100..500)));
                }
                return true;
            }
            Kind::Delay => {
                let delay_ms = [5, 20, 60, 150, 400][self.rng.usize(0..5)];
                self.some(Fault { delay_ms, ..Fault::default() });
            }
            Kind::LoseRequests => {
                let lose_percent = self.rng.u8(5..40);
                let towards = self.rng.bool();
                for other in seats.into_iter().filter(|&n| n != any) {
                    let (from, to) = if towards { (other, any) } else { (any, other) };
                    self.links.set(from, to, Fault { lose_percent, ..Fault::default() });
                }
            }
            Kind::LoseReplies => {
                // What a leader hears back: all it sends arrives, and some answers do not come.
                let leader = self.addresses.leader().unwrap_or(any);
                let lose_percent = self.rng.u8(10..60);
                for other in seats.into_iter().filter(|&n| n != leader) {
                    self.links.set(other, leader, Fault { lose_percent, ..Fault::default() });
                }
            }
            Kind::Duplicate => self.some(Fault { double_percent: 30, ..Fault::default() }),
            Kind::HalfOpen => self.cut_off(any, Cut::Late),
            Kind::Reset => self.cut_off(any, Cut::Reset),
            other => unreachable!("{other:?} is nothing between members"),
        }
        self.clock.pause(Duration::from_millis(self.rng.u64(300..5_000)));
        true
    }

    fn cut(&mut self) -> Cut {
        [Cut::Lose, Cut::Lose, Cut::Late, Cut::Reset][self.rng.usize(0..4)]
    }

    fn both(&self, a: usize, b: usize, cut: Cut) {
        let fault = Fault { cut: Some(cut), ..Fault::default() };
        self.links.set(a, b, fault);
        self.links.set(b, a, fault);
    }

    fn isolate(&mut self, n: usize) {
        let cut = self.cut();
        self.cut_off(n, cut);
    }

    fn cut_off(&self, n: usize, cut: Cut) {
        let seats = self.addresses.taken();
        seats.into_iter().filter(|&other| other != n).for_each(|other| self.both(n, other, cut));
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let seats = self.addresses.taken();
        let pair = |&a: &usize| seats.iter().map(move |&b| (a, b));
        seats.iter().flat_map(pair).filter(|(a, b)| a != b).collect()
    }

    /// On half of the links, at least one.
    fn some(&mut self, fault: Fault) {
        let mut pairs = self.pairs();
        self.rng.shuffle(&mut pairs);
        pairs.truncate(pairs.len().div_ceil(2));
        pairs.into_iter().for_each(|(from, to)| self.links.set(from, to, fault));
    }
}
