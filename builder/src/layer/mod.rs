//! Layers: what they hold, how they stack, and how they become bytes and files.
//!
//! ```text
//! entry     one header of a tar as a typed value; paths and their order
//! tar       entries -> bytes, as BuildKit writes them
//! cut       where the bytes are cut into blocks
//! compress  bytes -> compressed blocks on all cores, with both hashes, in one pass
//! blocks    compressed blocks that earlier layers hold already
//! pipeline  entries and contents -> blob, diff ID, digest and index: tar + compress + index
//! read      somebody's blob -> checked entries and contents
//! index     the sorted entries of one layer, kept beside it
//! residue   what a step leaves that its layer does not tell
//! view      the tree that a chain of indexes shows
//! spool     a blob -> its contents in any order, in a temporary file
//! unpack    a blob -> a directory for use as an overlay's lower layer
//! diff      an overlay's upper directory, or a changed plain tree -> entries of a new layer
//! tree      a chain of layers -> one plain tree, where there is no overlayfs
//! beneath   opening files below a directory handle, never outside
//! ```
//!
//! Where blobs are kept is `content`'s business; which Dockerfile step makes which layer is not known
//! here.

pub mod beneath;
pub mod blocks;
pub mod compress;
mod cut;
pub mod diff;
pub mod entry;
pub mod index;
pub(crate) mod likeness;
pub mod pipeline;
pub mod read;
pub mod residue;
pub mod spool;
pub mod tar;
pub mod tree;
pub mod unpack;
pub mod view;

pub use blocks::Blocks;
pub use compress::Compression;
pub use entry::{ContentHash, Entry, Kind};
pub use index::Index;
pub use pipeline::{Layer, Pipeline};
pub use residue::Residue;
pub use view::{Node, View};
