//! Ways to cut a network, and who can still do what in it.

use crate::world::NodeIndex;

/// `cut[from][to]`: nothing gets through.
pub type Cut = Vec<Vec<bool>>;

/// Ways to cut a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Two groups that do not hear each other.
    Split,
    /// One member alone.
    IsolateOne,
    /// One group hears another, which does not hear it.
    OneWay,
    /// One member hears everybody and is heard by nobody, or the reverse.
    Deaf,
    /// Each directed link on its own.
    Random,
    /// Everybody has two neighbours.
    Ring,
    /// Two groups that only one member connects.
    Bridge,
    /// One member in the middle of all others.
    Star,
    /// Two members do not hear each other; everybody else hears both.
    Cloudflare,
}

const SHAPES: [Shape; 9] = [
    Shape::Split,
    Shape::IsolateOne,
    Shape::OneWay,
    Shape::Deaf,
    Shape::Random,
    Shape::Ring,
    Shape::Bridge,
    Shape::Star,
    Shape::Cloudflare,
];

/// Shapes in which somebody in the middle may reach a majority that does not reach itself.
const HUB_SHAPES: [Shape; 4] = [Shape::Ring, Shape::Bridge, Shape::Star, Shape::Random];

impl Shape {
    /// Any shape.
    pub fn draw(rng: &mut fastrand::Rng) -> Shape {
        SHAPES[rng.usize(0..SHAPES.len())]
    }

    /// One of those with a middle.
    pub fn draw_with_hub(rng: &mut fastrand::Rng) -> Shape {
        HUB_SHAPES[rng.usize(0..HUB_SHAPES.len())]
    }

    /// The links that it cuts, the members in random order. What happens to the leader matters most, so it often comes
    /// first.
    pub fn cut(self, rng: &mut fastrand::Rng, voters: usize, leader: Option<NodeIndex>) -> Cut {
        let mut order: Vec<NodeIndex> = (0..voters).collect();
        rng.shuffle(&mut order);
        if let Some(leader) = leader
            && rng.bool()
        {
            let at = order.iter().position(|&node| node == leader).expect("a member");
            order.swap(0, at);
        }
        let rank = |node: NodeIndex| order.iter().position(|&n| n == node).expect("a member");
        let size = if voters > 1 { rng.usize(1..voters) } else { 1 };
        let is_first = rng.bool();
        let probability = rng.f64();
        let mut cut = whole(voters);
        for (from, row) in cut.iter_mut().enumerate() {
            for (to, link) in row.iter_mut().enumerate().filter(|(to, _)| *to != from) {
                let (a, b) = (rank(from), rank(to));
                *link = match self {
                    Shape::Split => (a < size) != (b < size),
                    Shape::IsolateOne => a == 0 || b == 0,
                    Shape::OneWay => a < size && b >= size,
                    Shape::Deaf => {
                        if is_first {
                            a == 0
                        } else {
                            b == 0
                        }
                    }
                    Shape::Random => rng.f64() < probability,
                    Shape::Ring => a.abs_diff(b) != 1 && a.abs_diff(b) != voters - 1,
                    Shape::Bridge => a != 0 && b != 0 && (a % 2) != (b % 2),
                    Shape::Star => a != 0 && b != 0,
                    Shape::Cloudflare => a.min(b) == 0 && a.max(b) == 1,
                };
            }
        }
        cut
    }
}

/// No link is cut.
pub fn whole(voters: usize) -> Cut {
    vec![vec![false; voters]; voters]
}

fn talk(cut: &Cut, a: NodeIndex, b: NodeIndex) -> bool {
    !cut[a][b] && !cut[b][a]
}

/// Whether some majority of able voters can exchange messages pairwise (the condition of P6).
pub fn has_connected_majority(cut: &Cut, is_able: &[bool], voters: &[NodeIndex]) -> bool {
    (0u32..1 << voters.len()).any(|group| {
        let members = voters.iter().enumerate().filter(|(nth, _)| group & (1 << nth) != 0);
        let members: Vec<NodeIndex> = members.map(|(_, &node)| node).collect();
        members.len() > voters.len() / 2
            && members.iter().all(|&a| is_able[a])
            && members.iter().all(|&a| members.iter().all(|&b| a == b || talk(cut, a, b)))
    })
}

/// Whether an able voter exchanges messages with enough able others to lead.
pub fn reaches_majority(cut: &Cut, is_able: &[bool], voters: &[NodeIndex], hub: NodeIndex) -> bool {
    let reached = voters.iter().filter(|&&other| is_able[other] && (other == hub || talk(cut, hub, other)));
    is_able[hub] && reached.count() > voters.len() / 2
}
