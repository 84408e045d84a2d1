//! What the test disk forgets, and what it does not.

use super::*;

fn read(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    disk.contents(name).map(|c| c.to_vec())
}

/// `a` synced with its name, then "new" unsynced over it; `b` synced without its name.
fn sample() -> SimDisk {
    let disk = SimDisk::new(1);
    let a = disk.create("a").unwrap();
    a.write_at(0, b"old old").unwrap();
    a.sync().unwrap();
    disk.sync_dir().unwrap();
    a.write_at(0, b"new").unwrap();
    let b = disk.create("b").unwrap();
    b.write_at(0, b"bbb").unwrap();
    b.sync().unwrap();
    disk
}

#[test]
fn restart_after_process_death_keeps_what_was_written_and_a_power_loss_after_it_takes_it() {
    let disk = sample().restart(Loss::Nothing);
    assert_eq!(read(&disk, "a").unwrap(), b"new old");
    assert_eq!(read(&disk, "b").unwrap(), b"bbb");
    let disk = disk.restart(Loss::Everything);
    assert_eq!(read(&disk, "a").unwrap(), b"old old");
    assert_eq!(read(&disk, "b"), None, "a synced file without a synced name is gone");
}

#[test]
fn restart_that_keeps_everything_makes_it_durable() {
    let disk = sample().restart(Loss::KeepsEverything).restart(Loss::Everything);
    assert_eq!(read(&disk, "a").unwrap(), b"new old");
    assert_eq!(read(&disk, "b").unwrap(), b"bbb");
}

#[test]
fn restart_that_keeps_the_last_change_of_a_file_loses_those_before_it() {
    let disk = sample();
    disk.open("a").unwrap().write_at(4, b"NEW").unwrap();
    let disk = disk.restart(Loss::KeepsLast);
    assert_eq!(read(&disk, "a").unwrap(), b"old NEW");
    assert_eq!(read(&disk, "b").unwrap(), b"bbb", "its name was the directory's last change");
}

#[test]
fn restart_at_random_reaches_every_outcome_and_only_those() {
    let mut seen = BTreeSet::new();
    for seed in 0..400 {
        let disk = sample().restart(Loss::Random { seed });
        seen.insert((read(&disk, "a").unwrap(), read(&disk, "b").is_some()));
    }
    let a: BTreeSet<_> = seen.iter().map(|(a, _)| a.clone()).collect();
    let expected: [&[u8]; 5] = [b"\0\0\0 old", b"new old", b"ned old", b"nld old", b"old old"];
    let legal = |a: &Vec<u8>| expected.contains(&&a[..]);
    assert!(a.contains(&b"old old"[..]) && a.contains(&b"new old"[..]) && a.contains(&b"\0\0\0 old"[..]));
    assert!(a.iter().all(legal), "{a:?}");
    assert!(seen.iter().any(|(_, b)| *b) && seen.iter().any(|(_, b)| !*b));
}

#[test]
fn restart_kills_the_handles_of_the_life_before() {
    let disk = sample();
    let file = disk.open("a").unwrap();
    let next = disk.restart(Loss::Nothing);
    assert!(file.sync().is_err() && disk.list().is_err());
    assert!(next.list().is_ok());
}

#[test]
fn a_failed_sync_leaves_pages_that_look_clean_and_are_lost() {
    let disk = sample();
    let file = disk.open("a").unwrap();
    disk.plan(disk.ops() + 1, Fault::Eio);
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    file.sync().unwrap();
    assert_eq!(read(&disk, "a").unwrap(), b"new old");
    assert_eq!(read(&disk.fork().restart(Loss::KeepsEverything), "a").unwrap(), b"old old");
    file.write_at(6, b"!").unwrap();
    file.forget_cache().unwrap();
    assert_eq!(read(&disk, "a").unwrap(), b"old ol!", "what waits to be written stays");
}

#[test]
fn a_disk_that_lies_about_syncs_shows_only_when_the_power_fails() {
    let disk = sample();
    disk.lie_about_syncs();
    disk.open("a").unwrap().sync().unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(read(&disk, "a").unwrap(), b"new old");
    let disk = disk.restart(Loss::Everything);
    assert_eq!((read(&disk, "a").unwrap(), read(&disk, "b")), (b"old old".to_vec(), None));
}

#[test]
fn a_death_leaves_the_first_bytes_of_the_write_and_fails_everything_after_it() {
    let disk = sample();
    let file = disk.open("a").unwrap();
    disk.plan(disk.ops() + 1, Fault::Die { bytes: 2 });
    assert!(file.write_at(4, b"xyz").is_err());
    assert!(file.sync().is_err());
    assert_eq!(read(&disk.restart(Loss::Nothing), "a").unwrap(), b"new xyd");
}

#[test]
fn a_full_disk_refuses_growth_and_lets_the_rest_pass() {
    let disk = sample();
    disk.set_capacity(Some(12));
    let file = disk.open("a").unwrap();
    assert_eq!(file.write_at(7, b"123").unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.allocate(10).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(5, b"1234").unwrap();
}

#[test]
fn moments_are_the_states_before_each_operation() {
    let disk = SimDisk::new(1);
    let moments = disk.moments(|disk| {
        let file = disk.create("a").unwrap();
        file.write_at(0, b"abc").unwrap();
        file.sync().unwrap();
    });
    assert_eq!(moments.len(), 3);
    assert_eq!(moments[1].io, Io::Write { offset: 0, data: b"abc"[..].into() });
    assert_eq!(read(&moments[1].cut(2).restart(Loss::Nothing), "a").unwrap(), b"ab");
    assert_eq!(read(&moments[2].cut(0).restart(Loss::KeepsEverything), "a").unwrap(), b"abc");
    assert!(moments[2].cut(0).restart(Loss::Everything).names().is_empty());
}

#[test]
fn flip_is_seen_after_a_power_loss_too() {
    let disk = sample();
    disk.flip("a", 6, 1);
    assert_eq!(read(&disk, "a").unwrap(), b"new ole");
    assert_eq!(read(&disk.restart(Loss::Everything), "a").unwrap(), b"old ole");
}
