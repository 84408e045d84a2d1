//! Quorum arithmetic as pure functions over plain values.

/// How many of `voters` make a majority. Two majorities of the same voters always have a member in common.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest value that a majority has reached. For match indexes it is the highest index on a quorum (paper §5.3),
/// for rounds the last confirmed round, for contact times the moment a quorum was last heard. `None` without voters.
pub fn majority_value<T: Ord + Copy>(mut values: Vec<T>) -> Option<T> {
    let needed = majority(values.len());
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(needed - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_of_one_to_seven() {
        let table = [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)];
        for (voters, needed) in table {
            assert_eq!(majority(voters), needed, "{voters} voters");
        }
    }

    #[test]
    fn majority_value_is_the_greatest_a_majority_reached() {
        let table: [(&[u64], Option<u64>); 8] = [
            (&[], None),
            (&[7], Some(7)),
            (&[7, 3], Some(3)),
            (&[7, 3, 5], Some(5)),
            (&[0, 0, 9], Some(0)),
            (&[4, 4, 1, 1], Some(1)),
            (&[5, 4, 3, 2, 1], Some(3)),
            (&[9, 9, 9, 0, 0], Some(9)),
        ];
        for (values, expected) in table {
            assert_eq!(majority_value(values.to_vec()), expected, "{values:?}");
        }
    }
}
