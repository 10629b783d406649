//! Every schedule of pushers, a deleter, the collector and a crash over one blob and one manifest, on
//! the real decisions: in no reachable state is anything lost that is needed, no promise is broken,
//! and when all is quiet nothing is left behind.
//!
//! The world has files, locks, leases and the steps of `store::collect`; each step is one thing that
//! the others can see before the next. Time is not in it: a doubt may be due at once, and a lease may
//! run out at any moment, which voids the promises that it stands for.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use oci::{Digest, Manifest, RepoName, Tag, Verifier};
use serde_json::json;

use super::{
    Decision, Frozen, Item, Kind, MemoryRows, MountSource, Refusal, Terms, Transaction, View, decide, is_needed,
};

const SIZE: u64 = 4;

fn repo(number: usize) -> RepoName {
    ["a", "b"][number].parse().unwrap()
}

fn tag() -> Tag {
    "v1".parse().unwrap()
}

fn blob() -> Digest {
    Digest::of(b"blob")
}

fn manifest() -> Manifest {
    let descriptor = json!({"mediaType": "application/x", "digest": blob(), "size": SIZE});
    let document = json!({"schemaVersion": 2, "config": descriptor, "layers": []});
    Manifest::parse(None, serde_json::to_vec(&document).unwrap()).unwrap()
}

/// Somebody who pushes the image to a repository: asks, sends what is not there, stores the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pusher {
    Start,
    /// Has renewed the lease and not read the row yet. Perhaps somebody was about to take the blob then,
    /// or the lease has run out since.
    Asking {
        taken: bool,
        lapsed: bool,
    },
    /// Was told that the blob is not there.
    Absent,
    /// Holds the lock and has put the file in its place, without a record yet.
    Filed,
    /// Holds the lock and has put a file from the trash back in its place, without a record yet.
    BroughtBack,
    /// Was told that the blob is there, and relies on it until that is too long ago.
    Promised {
        lapsed: bool,
    },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// Has the lock and has said that it is about to take.
    Announced,
    /// Has looked at the lease.
    Looked { spared: bool },
    /// Has condemned the content, whose file is still in its place.
    Condemned,
    /// Has removed the file from the trash, without a record yet.
    Unlinked,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    rows: MemoryRows,
    in_place: bool,
    in_trash: bool,
    leased: bool,
    /// Who holds the lock of the blob's digest: a pusher by number, or the collector.
    lock: Option<usize>,
    taking: bool,
    pushers: [Pusher; 2],
    collector: Option<(Item, Step)>,
    rounds: u8,
    deletes: u8,
    crashes: u8,
}

const COLLECTOR: usize = 2;

impl World {
    /// Nothing is there, and so many things may happen.
    fn new(pushers: usize, rounds: u8, deletes: u8, crashes: u8) -> Self {
        Self {
            rows: MemoryRows::default(),
            in_place: false,
            in_trash: false,
            leased: false,
            lock: None,
            taking: false,
            pushers: [Pusher::Start, if pushers == 2 { Pusher::Start } else { Pusher::Done }],
            collector: None,
            rounds,
            deletes,
            crashes,
        }
    }

    /// The same, where an image was pushed and its tag deleted.
    fn with_garbage(mut self) -> Self {
        let mut verifier = Verifier::sha256();
        verifier.update(b"blob");
        let (repo, frozen) = (repo(0), Frozen::default);
        let tags = vec![tag()];
        let manifest = Box::new(manifest());
        self.in_place = true;
        self.commit(&Transaction::StoreBlob { repo: repo.clone(), blob: verifier.seal(), upload: None, bytes: None })
            .unwrap();
        let put = Transaction::PutManifest {
            repo: repo.clone(),
            manifest,
            inline: true,
            tags,
            frozen: frozen(),
            terms: Terms::default(),
        };
        self.commit(&put).unwrap();
        self.commit(&Transaction::DeleteTag { repo, tag: tag(), frozen: frozen() }).unwrap();
        self
    }

    fn look<T>(&self, look: impl FnOnce(View<'_, MemoryRows>) -> Result<T, super::RowsError>) -> T {
        look(View(&self.rows)).unwrap()
    }

    /// Commits a transaction, or says why not.
    fn commit(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        let record = match decide(&self.rows, transaction, Timestamp::UNIX_EPOCH) {
            Ok(record) => record,
            Err(Decision::Refused(refusal)) => return Err(refusal),
            Err(Decision::Rows(error)) => panic!("{error}"),
        };
        for write in record.writes() {
            match write.value {
                Some(value) => drop(self.rows.0.insert(write.key, value)),
                None => drop(self.rows.0.remove(&write.key)),
            }
        }
        Ok(())
    }

    fn renew(&mut self) -> bool {
        self.leased = true;
        !self.taking
    }

    fn is_stored(&self) -> bool {
        self.look(|view| view.stored_blob(&blob())).is_some()
    }

    fn doubts(&self) -> Vec<Item> {
        let doubts = Kind::ALL.into_iter().flat_map(|kind| self.look(|view| view.queue(kind, Timestamp::MAX, 99)));
        doubts.map(|(_, item)| item).collect()
    }

    fn after(&self, name: &str, change: impl FnOnce(&mut Self)) -> (String, Self) {
        let mut world = self.clone();
        change(&mut world);
        (name.to_owned(), world)
    }

    /// Every world that is one step away.
    fn next(&self) -> Vec<(String, Self)> {
        let mut next = Vec::new();
        for who in 0..self.pushers.len() {
            self.push(who, &mut next);
        }
        self.collect(&mut next);
        if self.leased {
            next.push(self.after("the lease runs out", |world| {
                world.leased = false;
                for pusher in &mut world.pushers {
                    if let Pusher::Promised { lapsed } | Pusher::Asking { lapsed, .. } = pusher {
                        *lapsed = true;
                    }
                }
            }));
        }
        if self.deletes > 0 {
            let frozen = Frozen::default;
            let (repo, digest) = (repo(0), manifest().digest());
            let deletions = [
                Transaction::DeleteTag { repo: repo.clone(), tag: tag(), frozen: frozen() },
                Transaction::DeleteManifest { repo: repo.clone(), digest, frozen: frozen() },
                Transaction::UnlinkBlob { repo, digest: blob() },
            ];
            for delete in deletions {
                let mut world = self.clone();
                world.deletes -= 1;
                if world.commit(&delete).is_err() {
                    continue;
                }
                // Who relies on a blob that somebody deletes by name relies on nothing.
                if let (Transaction::UnlinkBlob { .. }, Pusher::Promised { lapsed }) = (&delete, &mut world.pushers[0])
                {
                    *lapsed = true;
                }
                next.push((format!("{delete:?}"), world));
            }
        }
        if self.crashes > 0 {
            next.push(self.after("crash", |world| {
                world.crashes -= 1;
                (world.lock, world.taking, world.collector) = (None, false, None);
                world.leased = true; // everything is, after a start
                for pusher in &mut world.pushers {
                    if !matches!(pusher, Pusher::Promised { .. } | Pusher::Done) {
                        *pusher = Pusher::Start;
                    }
                }
            }));
        }
        next
    }

    fn push(&self, who: usize, next: &mut Vec<(String, Self)>) {
        let mut add = |name: &str, change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            next.push((format!("pusher {who} {name}"), world));
        };
        match self.pushers[who] {
            Pusher::Start => add("asks", &|world| {
                let taken = !world.renew();
                world.pushers[who] = Pusher::Asking { taken, lapsed: taken };
            }),
            Pusher::Asking { taken, lapsed } => add("is answered", &|world| {
                // What is about to be taken counts as gone, unless a manifest came to name it. Then the
                // answer is true; should that manifest go at once, the ghost of the blob is left.
                let sure = !taken || world.look(|view| view.a_parent(&repo(who), &blob())).is_some();
                let there = sure && world.look(|view| view.blob(&repo(who), &blob())).is_some();
                world.pushers[who] = if there { Pusher::Promised { lapsed } } else { Pusher::Absent };
            }),
            Pusher::Absent if self.lock.is_none() => {
                add("files", &|world| {
                    world.renew();
                    (world.lock, world.in_place, world.pushers[who]) = (Some(who), true, Pusher::Filed);
                });
                if who == 1 {
                    add("mounts", &|world| {
                        world.renew();
                        let from = MountSource::Repo(repo(0));
                        let mount = Transaction::MountBlob { repo: repo(1), digest: blob(), from };
                        match world.commit(&mount) {
                            Ok(()) => world.pushers[who] = Pusher::Promised { lapsed: false },
                            Err(_) => world.bring_back(who, 0),
                        }
                    });
                }
            }
            Pusher::Filed => add("has filed", &|world| {
                let mut verifier = Verifier::sha256();
                verifier.update(b"blob");
                let store =
                    Transaction::StoreBlob { repo: repo(who), blob: verifier.seal(), upload: None, bytes: None };
                world.commit(&store).unwrap();
                (world.lock, world.pushers[who]) = (None, Pusher::Promised { lapsed: !world.leased });
            }),
            Pusher::BroughtBack => add("has brought back", &|world| {
                // A mount brings back where it mounts from, a manifest where it is stored.
                let of = if world.look(|view| view.doubted(&ghost(who))).is_some() { who } else { 0 };
                // Refused if the collector has forgotten it meanwhile: then it is sent again.
                let _ = world.commit(&Transaction::Resurrect { repo: repo(of), digest: blob(), size: SIZE });
                (world.lock, world.pushers[who]) = (None, Pusher::Absent);
            }),
            Pusher::Promised { lapsed } => {
                let mut world = self.clone();
                let (repo, manifest) = (repo(who), Box::new(manifest()));
                let put = Transaction::PutManifest {
                    repo,
                    manifest,
                    inline: true,
                    tags: vec![tag()],
                    frozen: Frozen::default(),
                    terms: Terms::default(),
                };
                match world.commit(&put) {
                    Ok(()) if world.rounds > 0 && who == 0 => {
                        world.rounds -= 1;
                        world.pushers[who] = Pusher::Start;
                    }
                    Ok(()) => world.pushers[who] = Pusher::Done,
                    Err(refusal) => {
                        assert!(lapsed, "a promise was broken: {refusal} in {self:#?}");
                        if self.lock.is_some() {
                            return;
                        }
                        world.bring_back(who, who);
                    }
                }
                next.push((format!("pusher {who} stores the manifest"), world));
            }
            Pusher::Absent | Pusher::Done => {}
        }
    }

    /// Takes the lock and the file back from the trash, if the repository had the blob lately.
    fn bring_back(&mut self, who: usize, of: usize) {
        self.pushers[who] = Pusher::Absent;
        if self.look(|view| view.doubted(&ghost(of))).is_none() {
            return;
        }
        self.renew();
        if !self.is_stored() {
            if !self.in_trash && !self.in_place {
                return;
            }
            (self.in_place, self.in_trash) = (true, false);
        }
        (self.lock, self.pushers[who]) = (Some(who), Pusher::BroughtBack);
    }

    fn collect(&self, next: &mut Vec<(String, Self)>) {
        let mut add = |name: String, change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            next.push((name, world));
        };
        let review = |item: &Item, spared| {
            let since = Timestamp::UNIX_EPOCH;
            Transaction::Review { item: item.clone(), since, spared }
        };
        let Some((item, step)) = self.collector.clone() else {
            if self.lock.is_some() {
                return;
            }
            for item in self.doubts() {
                add(format!("the collector begins with {item:?}"), &|world| {
                    world.lock = Some(COLLECTOR);
                    let needed = world.look(|view| is_needed(&view, &item));
                    world.taking = matches!(item, Item::Link { .. }) && !needed;
                    let step = if needed { Step::Looked { spared: true } } else { Step::Announced };
                    world.collector = Some((item.clone(), step));
                });
            }
            if self.in_place && !self.is_stored() {
                add("the collector adopts".to_owned(), &|world| {
                    world.commit(&Transaction::Adopt { digest: blob(), size: SIZE }).unwrap();
                });
            }
            return;
        };
        let end = |world: &mut Self| (world.lock, world.taking, world.collector) = (None, false, None);
        match step {
            Step::Announced if matches!(item, Item::Trash { .. }) => add("unlinks".to_owned(), &|world| {
                if !world.is_stored() {
                    world.in_place = false;
                }
                world.in_trash = false;
                world.collector = Some((item.clone(), Step::Unlinked));
            }),
            Step::Announced => add("looks at the lease".to_owned(), &|world| {
                let spared = world.leased && matches!(item, Item::Link { .. });
                world.collector = Some((item.clone(), Step::Looked { spared }));
            }),
            Step::Looked { spared } => add(format!("decides {item:?}"), &|world| {
                world.commit(&review(&item, spared)).unwrap();
                match item {
                    Item::Content { .. } if !world.is_stored() => {
                        world.collector = Some((item.clone(), Step::Condemned));
                    }
                    _ => end(world),
                }
            }),
            Step::Condemned => add("moves to the trash".to_owned(), &|world| {
                if world.in_place {
                    (world.in_place, world.in_trash) = (false, true);
                }
                end(world);
            }),
            Step::Unlinked => add("has unlinked".to_owned(), &|world| {
                world.commit(&review(&item, false)).unwrap();
                end(world);
            }),
        }
    }

    /// What holds in every world.
    fn check(&self) {
        assert!(!self.is_stored() || self.in_place, "a row speaks of content that is not there");
        for at in 0..2 {
            let (repo, digest) = (repo(at), manifest().digest());
            let is_linked = self.look(|view| view.is_linked(&repo, &blob()));
            let has_manifest = self.look(|view| view.has_manifest(&repo, &digest));
            let tagged = self.look(|view| view.tag(&repo, &tag())).is_some();
            assert!(!is_linked || self.is_stored(), "a link without content");
            assert!(!has_manifest || is_linked, "a manifest without its blob");
            assert!(!tagged || has_manifest, "a tag without its manifest");
            let doubts = self.doubts();
            let doubted = |item: Item| doubts.contains(&item);
            let link = Item::Link { repo: repo.clone(), digest: blob() };
            assert!(!is_linked || has_manifest || doubted(link), "a blob is forgotten");
            assert!(!has_manifest || tagged || doubted(Item::Manifest { repo, digest }), "a manifest is forgotten");
        }
        let in_use = self.look(|view| view.is_in_use(&blob()));
        let content = Item::Content { digest: blob() };
        assert!(!self.is_stored() || in_use || self.doubts().contains(&content), "content is forgotten");
        let trash = Item::Trash { digest: blob(), size: SIZE };
        let unlinking = matches!(self.collector, Some((Item::Trash { .. }, _)));
        assert!(!self.in_trash || unlinking || self.doubts().contains(&trash), "the trash is forgotten");
    }

    /// Once everybody is gone and nothing is tagged, everything goes.
    fn check_end(&self) {
        let mut world = self.clone();
        for at in 0..2 {
            let delete = Transaction::DeleteTag { repo: repo(at), tag: tag(), frozen: Frozen::default() };
            let _ = world.commit(&delete); // refused where there is none
        }
        (world.leased, world.deletes, world.crashes, world.pushers) = (false, 0, 0, [Pusher::Done; 2]);
        for _ in 0..100 {
            let mut next = Vec::new();
            world.collect(&mut next);
            match next.pop() {
                Some((_, after)) => world = after,
                None => break,
            }
        }
        assert!(!world.in_place && !world.in_trash, "content is never collected: {self:#?}");
        let left: Vec<_> = world.rows.0.keys().filter(|key| key[0] != b'R').collect();
        assert!(left.is_empty(), "rows are never collected: {left:?}");
    }
}

fn ghost(of: usize) -> Item {
    Item::Ghost { repo: repo(of), digest: blob() }
}

/// A world by its hash: a few bytes each, for millions of them.
fn fingerprint(of: &impl Hash) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, of).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// What an exploration came across.
#[derive(Debug, Default)]
struct Reached {
    worlds: usize,
    quiet: usize,
    trash: bool,
    brought_back: bool,
    done: bool,
}

fn explore(start: World) -> Reached {
    let (mut seen, mut ended) = (HashSet::from([fingerprint(&start)]), HashSet::new());
    let (mut todo, mut reached) = (vec![start], Reached::default());
    while let Some(world) = todo.pop() {
        world.check();
        reached.worlds += 1;
        reached.trash |= world.in_trash;
        reached.brought_back |= world.pushers.contains(&Pusher::BroughtBack);
        reached.done |= world.pushers == [Pusher::Done; 2];
        let what_is_left = (&world.rows, world.in_place, world.in_trash);
        if world.lock.is_none() && world.collector.is_none() && ended.insert(fingerprint(&what_is_left)) {
            world.check_end();
            reached.quiet += 1;
        }
        for (_, next) in world.next() {
            if seen.insert(fingerprint(&next)) {
                todo.push(next);
            }
        }
    }
    reached
}

#[test]
fn no_schedule_of_pushes_deletes_collections_and_a_crash_loses_or_leaks_anything() {
    let starts = [
        World::new(1, 0, 2, 1),
        World::new(2, 0, 1, 0),
        World::new(1, 1, 1, 0).with_garbage(),
        World::new(2, 0, 0, 0).with_garbage(),
        World::new(1, 0, 0, 1).with_garbage(),
    ];
    let reached: Vec<Reached> = starts.into_iter().map(explore).collect();
    // That the explorations reached what they are about.
    for reached in &reached {
        assert!(reached.trash && reached.done && reached.worlds > 500 && reached.quiet > 10, "{reached:?}");
    }
    assert!(reached.iter().any(|reached| reached.brought_back), "nothing was ever brought back: {reached:?}");
}
