//! Random transactions against a plain model, with crashes: the journal's tail is cut at any byte,
//! the index is deleted or trusted; afterwards the rows answer as the model did at that point.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use oci::{Digest, Manifest, RepoName, Tag, Verifier};
use proptest::prelude::*;
use serde_json::json;

use super::tests::copy_dir;
use super::{Index, Places};
use crate::journal::{Journal, Purpose};
use crate::state::{Decision, Frozen, Item, Kind, MountSource, Refusal, Terms, Transaction, View, decide};

const REPOS: [&str; 3] = ["a", "a/b", "ab"];
const TAGS: [&str; 3] = ["v1", "v2", "latest"];
const BLOBS: usize = 3;
/// Manifests 0..3 are images of one blob, 3 is an index of 0 and 1, 4 refers to 0, and 5 is an index of 0
/// that refers to it as well.
const MANIFESTS: usize = 6;

#[derive(Debug, Clone)]
enum Op {
    StoreBlob(usize, usize),
    Mount(usize, usize, Option<usize>),
    Unlink(usize, usize),
    Put(usize, usize, Vec<usize>),
    DeleteTag(usize, usize),
    DeleteManifest(usize, usize),
    /// Look at every doubt, as if its time had come, until there are none.
    Collect,
}

fn op() -> impl Strategy<Value = Op> {
    let (repo, blob, manifest, tag) = (0..REPOS.len(), 0..BLOBS, 0..MANIFESTS, 0..TAGS.len());
    prop_oneof![
        4 => (repo.clone(), blob.clone()).prop_map(|(repo, blob)| Op::StoreBlob(repo, blob)),
        1 => (repo.clone(), blob.clone(), prop::option::of(repo.clone())).prop_map(|(to, blob, from)| Op::Mount(to, blob, from)),
        1 => (repo.clone(), blob).prop_map(|(repo, blob)| Op::Unlink(repo, blob)),
        5 => (repo.clone(), manifest.clone(), prop::collection::vec(tag.clone(), 0..3)).prop_map(|(repo, manifest, tags)| Op::Put(repo, manifest, tags)),
        1 => (repo.clone(), tag).prop_map(|(repo, tag)| Op::DeleteTag(repo, tag)),
        2 => (repo, manifest).prop_map(|(repo, manifest)| Op::DeleteManifest(repo, manifest)),
        1 => Just(Op::Collect),
    ]
}

/// Those that refer to manifest 0.
const REFERRERS: [usize; 2] = [4, 5];

fn repo(number: usize) -> RepoName {
    REPOS[number].parse().unwrap()
}

fn tag(number: usize) -> Tag {
    TAGS[number].parse().unwrap()
}

fn blob_bytes(number: usize) -> Vec<u8> {
    format!("blob {number}").into_bytes()
}

fn blob(number: usize) -> Digest {
    Digest::of(&blob_bytes(number))
}

fn manifest(number: usize) -> Manifest {
    let describe = |digest: Digest| json!({"mediaType": "application/x", "digest": digest, "size": 6});
    let of = |number: usize| describe(manifest(number).digest());
    let document = match number {
        3 => json!({"schemaVersion": 2, "manifests": [of(0), of(1)]}),
        5 => json!({"schemaVersion": 2, "manifests": [of(0)], "subject": of(0)}),
        4 => {
            json!({"schemaVersion": 2, "config": describe(blob(0)), "layers": [], "subject": of(0), "artifactType": "application/y"})
        }
        _ => json!({"schemaVersion": 2, "config": describe(blob(number)), "layers": [describe(blob(number))]}),
    };
    Manifest::parse(None, serde_json::to_vec(&document).unwrap()).unwrap()
}

/// What a manifest names: blobs and manifests by number.
fn needs(number: usize) -> (Vec<usize>, Vec<usize>) {
    match number {
        3 => (vec![], vec![0, 1]),
        4 => (vec![0], vec![]),
        5 => (vec![], vec![0]),
        image => (vec![image], vec![]),
    }
}

/// The plain model: sets and a map, without rows, records or batches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    blobs: BTreeSet<(usize, usize)>,
    manifests: BTreeSet<(usize, usize)>,
    tags: BTreeMap<(usize, usize), usize>,
}

impl Model {
    /// Does an operation; false if it is refused.
    fn apply(&mut self, op: &Op) -> bool {
        match op {
            Op::StoreBlob(repo, blob) => drop(self.blobs.insert((*repo, *blob))),
            Op::Mount(to, blob, from) => {
                let there = |repo: &usize| self.blobs.contains(&(*repo, *blob));
                let found = there(to) || from.as_ref().map_or_else(|| (0..REPOS.len()).any(|repo| there(&repo)), there);
                if !found {
                    return false;
                }
                self.blobs.insert((*to, *blob));
            }
            Op::Unlink(repo, blob) => {
                let named = self.manifests.iter().any(|(at, manifest)| at == repo && needs(*manifest).0.contains(blob));
                return !named && self.blobs.remove(&(*repo, *blob));
            }
            Op::Put(repo, manifest, tags) => {
                let (blobs, manifests) = needs(*manifest);
                let complete = blobs.iter().all(|blob| self.blobs.contains(&(*repo, *blob)))
                    && manifests.iter().all(|child| self.manifests.contains(&(*repo, *child)));
                if !complete {
                    return false;
                }
                self.manifests.insert((*repo, *manifest));
                self.tags.extend(tags.iter().map(|tag| ((*repo, *tag), *manifest)));
            }
            Op::DeleteTag(repo, tag) => return self.tags.remove(&(*repo, *tag)).is_some(),
            Op::DeleteManifest(repo, manifest) => {
                let named = self.manifests.iter().any(|(at, parent)| at == repo && needs(*parent).1.contains(manifest));
                if named || !self.manifests.remove(&(*repo, *manifest)) {
                    return false;
                }
                self.tags.retain(|(at, _), named| at != repo || named != manifest);
            }
            Op::Collect => self.collect(),
        }
        true
    }

    /// Takes all manifests that no tag leads to, over what an index names and what refers to something;
    /// and all blobs that no manifest names.
    fn collect(&mut self) {
        let mut reached: BTreeSet<_> = self.tags.iter().map(|((repo, _), named)| (*repo, *named)).collect();
        let mut before = 0;
        while before != reached.len() {
            before = reached.len();
            let leads = |&(at, manifest): &(usize, usize)| {
                let named = needs(manifest).1.into_iter();
                let referrers = REFERRERS.into_iter().filter(move |_| manifest == 0);
                named.chain(referrers).map(move |next| (at, next))
            };
            let next: Vec<_> = reached.iter().flat_map(leads).filter(|next| self.manifests.contains(next)).collect();
            reached.extend(next);
        }
        self.manifests = reached;
        let manifests = self.manifests.clone();
        let named = |at: usize, blob: usize| {
            manifests.iter().any(|(repo, manifest)| *repo == at && needs(*manifest).0.contains(&blob))
        };
        self.blobs.retain(|(at, blob)| named(*at, *blob));
    }

    fn keeps(&self, at: usize, manifest: usize) -> bool {
        let tagged = self.tags.iter().any(|((repo, _), named)| *repo == at && *named == manifest);
        let parent = self.manifests.iter().any(|(repo, parent)| *repo == at && needs(*parent).1.contains(&manifest));
        let subject = REFERRERS.contains(&manifest) && self.manifests.contains(&(at, 0));
        tagged || parent || subject
    }
}

fn transaction(op: &Op) -> Transaction {
    match op {
        Op::Collect => unreachable!("a collection is many transactions"),
        Op::StoreBlob(at, number) => {
            let mut verifier = Verifier::sha256();
            verifier.update(&blob_bytes(*number));
            Transaction::StoreBlob { repo: repo(*at), blob: verifier.seal(), upload: None, bytes: None }
        }
        Op::Mount(to, number, from) => {
            let from = from.map_or(MountSource::Anywhere, |from| MountSource::Repo(repo(from)));
            Transaction::MountBlob { repo: repo(*to), digest: blob(*number), from }
        }
        Op::Unlink(at, number) => Transaction::UnlinkBlob { repo: repo(*at), digest: blob(*number) },
        Op::Put(at, number, tags) => Transaction::PutManifest {
            repo: repo(*at),
            manifest: Box::new(manifest(*number)),
            inline: true,
            tags: tags.iter().map(|number| tag(*number)).collect(),
            frozen: Frozen::default(),
            terms: Terms::default(),
        },
        Op::DeleteTag(at, number) => {
            Transaction::DeleteTag { repo: repo(*at), tag: tag(*number), frozen: Frozen::default() }
        }
        Op::DeleteManifest(at, number) => Transaction::DeleteManifest {
            repo: repo(*at),
            digest: manifest(*number).digest(),
            frozen: Frozen::default(),
        },
    }
}

/// Reads the whole model back through the typed view, and checks what the model does not have.
fn read_back(index: &Index) -> Model {
    let view = View(index);
    let mut model = Model::default();
    for at in 0..REPOS.len() {
        let repo = repo(at);
        for number in 0..BLOBS {
            // What pulls are told is what the rows say.
            let size = index.blob_size(&repo, &blob(number)).unwrap();
            assert_eq!(size.is_some(), view.is_linked(&repo, &blob(number)).unwrap());
            if size.is_some() {
                model.blobs.insert((at, number));
            }
        }
        for number in 0..MANIFESTS {
            let expected = manifest(number);
            let found = view.manifest(&repo, &expected.digest()).unwrap();
            let hot = index.manifest(&repo, &expected.digest()).unwrap();
            assert_eq!(hot.as_ref().map(|hot| &hot.bytes[..]), found.as_ref().map(|(_, bytes)| bytes.as_slice()));
            let Some((row, bytes)) = found else { continue };
            assert_eq!((bytes.as_slice(), row.size), (expected.bytes(), expected.bytes().len() as u64));
            model.manifests.insert((at, number));
        }
        let tags = view.tags(&repo, "", usize::MAX).unwrap();
        for number in 0..TAGS.len() {
            let row = view.tag(&repo, &tag(number)).unwrap();
            assert_eq!(index.tag(&repo, &tag(number)).unwrap(), row.map(|row| row.digest));
        }
        for number in (0..TAGS.len()).filter(|number| tags.contains(&tag(*number))) {
            let named = view.tag(&repo, &tag(number)).unwrap().unwrap().digest;
            let named = (0..MANIFESTS).find(|candidate| manifest(*candidate).digest() == named).unwrap();
            model.tags.insert((at, number), named);
        }
        let referrers = view.referrers(&repo, &manifest(0).digest(), None, None, usize::MAX).unwrap();
        let expected = REFERRERS.iter().filter(|number| model.manifests.contains(&(at, **number)));
        assert_eq!(referrers.len(), expected.count());
    }
    check_doubts(index, &model);
    model
}

/// Whatever nothing keeps is doubted: else it would never be collected.
fn check_doubts(index: &Index, model: &Model) {
    let view = View(index);
    let is_doubted = |item: Item| view.doubted(&item).unwrap().is_some();
    for (at, number) in &model.manifests {
        let item = Item::Manifest { repo: repo(*at), digest: manifest(*number).digest() };
        // A referrer may be about to be doubted with all others of a subject that is gone.
        let subject = Item::Referrers { repo: repo(*at), subject: manifest(0).digest(), after: None };
        let doubted = is_doubted(item) || REFERRERS.contains(number) && is_doubted(subject);
        assert!(model.keeps(*at, *number) || doubted, "manifest {number} of {at} is forgotten");
    }
    for (at, number) in &model.blobs {
        let named = model.manifests.iter().any(|(repo, manifest)| repo == at && needs(*manifest).0.contains(number));
        let item = Item::Link { repo: repo(*at), digest: blob(*number) };
        assert!(named || is_doubted(item), "blob {number} of {at} is forgotten");
    }
    for number in 0..BLOBS {
        let stored = view.stored_blob(&blob(number)).unwrap().is_some();
        let used = view.is_in_use(&blob(number)).unwrap();
        assert!(stored || !used, "blob {number} is used and not stored");
        assert!(!stored || used || is_doubted(Item::Content { digest: blob(number) }), "content {number} is forgotten");
    }
    let queued: usize = Kind::ALL.iter().map(|kind| view.queue(*kind, Timestamp::MAX, usize::MAX).unwrap().len()).sum();
    assert_eq!(queued, view.count_doubts(usize::MAX).unwrap());
}

fn places(dir: &Path) -> Places {
    let path = |name: &str| dir.join(name);
    Places { sled: path("index.sled"), state: path("index.state"), snapshots: path("snapshot") }
}

fn open(dir: &Path) -> (Journal, Index) {
    let journal = Journal::open(&dir.join("journal")).unwrap();
    let index = Index::open(places(dir), &journal).unwrap();
    (journal, index)
}

/// Looks at all doubts until there are none; `after_each` record.
fn collect(journal: &mut Journal, index: &Index, mut after_each: impl FnMut(&Index)) {
    let view = View(index);
    for _ in 0..20 {
        for kind in Kind::ALL {
            for (since, item) in view.queue(kind, Timestamp::MAX, usize::MAX).unwrap() {
                let review = Transaction::Review { item, since, spared: false };
                assert!(commit_one(journal, index, &review), "a review is never refused");
                after_each(index);
            }
        }
        if view.count_doubts(1).unwrap() == 0 {
            return;
        }
    }
    panic!("doubts do not end");
}

/// Does an operation on the real thing; false if it is refused.
fn commit(journal: &mut Journal, index: &Index, op: &Op, after_each: impl FnMut(&Index)) -> bool {
    match op {
        Op::Collect => {
            collect(journal, index, after_each);
            true
        }
        op => commit_one(journal, index, &transaction(op)),
    }
}

fn commit_one(journal: &mut Journal, index: &Index, transaction: &Transaction) -> bool {
    let record = match decide(index, transaction, Timestamp::now()) {
        Ok(record) => record,
        Err(Decision::Refused(Refusal::UploadUnknown)) => panic!("there are no uploads here"),
        Err(Decision::Refused(_)) => return false,
        Err(Decision::Rows(error)) => panic!("{error}"),
    };
    if !record.facts.is_empty() {
        let lsn = journal.append(&[record.encode()], Purpose::Ordinary).unwrap();
        journal.sync().unwrap();
        index.apply(record.writes(), journal, lsn).unwrap();
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_store_does_what_the_model_does_and_comes_back_from_any_crash(
        ops in prop::collection::vec(op(), 1..60),
        cut: prop::sample::Index,
        keep_index: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["journal", "snapshot"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Journal::start(&dir.path().join("journal"), 1).unwrap();
        let segment = dir.path().join("journal/00000000000000000001.wal");
        let length = |path: &Path| std::fs::metadata(path).unwrap().len() as usize;

        let mut model = Model::default();
        // The model after each record, with the length of the journal then.
        let mut history = vec![(length(&segment), model.clone())];
        let (mut journal, index) = open(dir.path());
        for op in &ops {
            let before = model.clone();
            // A collection is many records, and a crash may come between any two.
            let within = |index: &Index| history.push((length(&segment), read_back(index)));
            prop_assert_eq!(commit(&mut journal, &index, op, within), model.apply(op), "{:?}", op);
            if length(&segment) != history.last().unwrap().0 {
                history.push((length(&segment), model.clone()));
            } else {
                let collected = matches!(op, Op::Collect);
                prop_assert!(collected || before == model, "what changes anything is recorded: {:?}", op);
            }
        }
        prop_assert_eq!(&read_back(&index), &model);
        index.close().unwrap();
        drop((journal, index));

        // A crash: the journal ends at some byte, the index is there as it was, or not at all.
        let crashed = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), &crashed.path().join("data"));
        let data = crashed.path().join("data");
        let journal = data.join("journal/00000000000000000001.wal");
        let start = history[0].0;
        let cut = start + cut.index(length(&journal) - start + 1);
        std::fs::OpenOptions::new().write(true).open(&journal).unwrap().set_len(cut as u64).unwrap();
        if !keep_index {
            std::fs::remove_dir_all(data.join("index.sled")).unwrap();
        }
        let (mut journal, index) = open(&data);
        let (_, mut survived) = history.iter().rev().find(|(length, _)| *length <= cut).unwrap().clone();
        prop_assert_eq!(&read_back(&index), &survived);

        // And it works on.
        for op in ops.iter().rev() {
            prop_assert_eq!(commit(&mut journal, &index, op, |_| ()), survived.apply(op), "{:?}", op);
        }
        prop_assert_eq!(&read_back(&index), &survived);
    }
}

/// The index keeps its image and the image, as its subject, the index: once no tag leads there both go.
#[test]
fn an_index_that_refers_to_its_own_image_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["journal", "snapshot"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    Journal::start(&dir.path().join("journal"), 1).unwrap();
    let (mut journal, index) = open(dir.path());
    let mut model = Model::default();
    let mut run = |op: Op| {
        assert!(commit(&mut journal, &index, &op, |_| ()) && model.apply(&op), "{op:?}");
        assert_eq!(read_back(&index), model, "{op:?}");
        model.manifests.len()
    };
    for tagged in [5, 0] {
        for op in [Op::StoreBlob(0, 0), Op::Put(0, 0, vec![]), Op::Put(0, 5, vec![]), Op::Put(0, tagged, vec![0])] {
            run(op);
        }
        assert_eq!(run(Op::Collect), 2, "a tag leads to both");
        run(Op::DeleteTag(0, 0));
        assert_eq!(run(Op::Collect), 0);
    }
}
