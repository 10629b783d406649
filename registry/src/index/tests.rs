//! The index after deletion, corruption, and crashes: always the same rows as before.

use std::collections::BTreeMap;

use super::*;
use crate::journal::{Purpose, snapshot};
use crate::state::{Fact, Record};

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["journal", "snapshot"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Journal::start(&dir.path().join("journal"), 42).unwrap();
        Self { dir }
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.dir.path().join("journal")).unwrap()
    }

    fn places(&self) -> Places {
        let path = |name: &str| self.dir.path().join(name);
        Places { sled: path("index.sled"), state: path("index.state"), snapshots: path("snapshot") }
    }

    fn open(&self) -> (Journal, Index) {
        let journal = self.journal();
        let index = Index::open(self.places(), &journal).unwrap();
        (journal, index)
    }
}

/// Commits `count` tags, every tenth of them replacing an older one.
fn commit(journal: &mut Journal, index: &Index, from: usize, count: usize) {
    for number in from..from + count {
        let tag = format!("v{}", number - number % 10 / 9).parse().unwrap();
        let fact = Fact::TagSet {
            repo: "a/b".parse().unwrap(),
            tag,
            digest: oci::Digest::of(&number.to_le_bytes()),
            previous: None,
        };
        let record = Record { at: jiff::Timestamp::UNIX_EPOCH, facts: vec![fact], body: Vec::new() };
        let lsn = journal.append(&[record.encode()], Purpose::Ordinary).unwrap();
        journal.sync().unwrap();
        index.apply(record.writes(), journal, lsn).unwrap();
    }
}

fn dump(index: &Index) -> BTreeMap<Vec<u8>, Vec<u8>> {
    index.dump().map(|row| row.unwrap()).collect()
}

#[test]
fn a_deleted_index_comes_back_the_same() {
    let fixture = Fixture::new();
    let (mut journal, index) = fixture.open();
    commit(&mut journal, &index, 0, 700);
    let before = dump(&index);
    assert!(before.len() > 1000, "every tag has two rows");
    index.close().unwrap();
    drop((journal, index));
    std::fs::remove_dir_all(fixture.places().sled).unwrap();
    assert_eq!(dump(&fixture.open().1), before);
}

#[test]
fn a_snapshot_and_the_journal_behind_it_give_the_same_rows_and_the_old_journal_can_go() {
    let fixture = Fixture::new();
    let (mut journal, index) = fixture.open();
    commit(&mut journal, &index, 0, 300);
    // A fuzzy snapshot: rows of later records are in it already.
    let lsn = Lsn(200);
    snapshot::write::<IndexError>(
        &fixture.places().snapshots,
        42,
        lsn,
        index.dump().map(|row| row.map_err(Into::into)),
    )
    .unwrap();
    commit(&mut journal, &index, 300, 50);
    let before = dump(&index);
    drop(index);
    std::fs::remove_dir_all(fixture.places().sled).unwrap();
    drop(journal);
    assert_eq!(dump(&fixture.open().1), before);
}

#[test]
fn corrupted_files_of_sled_never_change_what_is_answered() {
    let fixture = Fixture::new();
    let (mut journal, index) = fixture.open();
    commit(&mut journal, &index, 0, 400);
    let before = dump(&index);
    index.close().unwrap();
    drop((journal, index));
    let files =
        |dir: PathBuf| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    for damage in 0..4usize {
        for file in files(fixture.places().sled) {
            let length = std::fs::metadata(&file).unwrap().len() as usize;
            match damage {
                0 => std::fs::write(&file, b"this is no database").unwrap(),
                1 => std::fs::write(&file, vec![0; length]).unwrap(),
                2 => std::fs::write(&file, &std::fs::read(&file).unwrap()[..length / 2]).unwrap(),
                _ => std::fs::write(&file, []).unwrap(),
            }
        }
        let (_, index) = fixture.open();
        assert_eq!(dump(&index), before, "damage {damage}");
        index.close().unwrap();
    }
}

#[test]
fn an_index_of_another_time_or_journal_is_thrown_away() {
    let fixture = Fixture::new();
    let (mut journal, index) = fixture.open();
    commit(&mut journal, &index, 0, 20);
    // Ahead of the journal, as after a journal was restored from a backup.
    index.apply(vec![Write { key: b"Rghost".to_vec(), value: Some(b"{}".to_vec()) }], &journal, Lsn(99)).unwrap();
    index.close().unwrap();
    drop((journal, index));
    let (_, index) = fixture.open();
    assert!(!dump(&index).contains_key(b"Rghost".as_slice()));
}

#[test]
fn an_index_that_was_open_when_the_machine_went_down_is_not_trusted() {
    let fixture = Fixture::new();
    let (mut journal, index) = fixture.open();
    commit(&mut journal, &index, 0, 20);
    let before = dump(&index);
    // What sled holds after a power cut is anything: here, a row that nobody committed.
    index.close().unwrap();
    let Backend::Sled(layers) = &*index.rows.read().unwrap() else { panic!("sled is not in use") };
    let rows = layers.below();
    rows.load(vec![Write { key: b"Rghost".to_vec(), value: Some(b"{}".to_vec()) }]).unwrap();
    rows.flush(&fixture.places().sled).unwrap();
    std::fs::write(fixture.places().state, "boot another-one").unwrap();
    drop(journal);
    // The handle of the dead process must be gone before sled lets another one in.
    let places = fixture.places();
    std::fs::rename(&places.sled, fixture.dir.path().join("copy")).unwrap();
    copy_dir(&fixture.dir.path().join("copy"), &places.sled);
    assert_eq!(dump(&fixture.open().1), before);
}

pub(super) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn rows_move_into_memory_when_sled_fails_and_writing_goes_on() {
    let fixture = Fixture::new();
    let (mut journal, index) = fixture.open();
    commit(&mut journal, &index, 0, 50);
    let before = dump(&index);
    index.move_to_memory(&journal).unwrap();
    assert_eq!(dump(&index), before);
    commit(&mut journal, &index, 50, 10);
    let after = dump(&index);
    assert!(after.len() > before.len());
    drop((journal, index));
    assert_eq!(dump(&fixture.open().1), after, "the next start makes a new index");
}

#[test]
fn what_sled_did_not_get_yet_is_read_at_once_and_replayed_after_a_kill() {
    let fixture = Fixture::new();
    let (mut journal, index) = fixture.open();
    commit(&mut journal, &index, 0, 95);
    let behind = match &*index.rows.read().unwrap() {
        Backend::Sled(layers) => layers.below().applied(),
        Backend::Memory { .. } => panic!("sled is not in use"),
    };
    assert!(behind < journal.last(), "sled gets changes in batches");
    assert_eq!(index.applied(), journal.last());
    let before = dump(&index);
    assert!(before.len() > 150);
    drop((journal, index)); // nobody closed it
    let (journal, index) = fixture.open();
    assert_eq!((dump(&index), index.applied()), (before, journal.last()));
}
