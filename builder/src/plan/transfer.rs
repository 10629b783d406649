//! COPY and ADD: their words expanded, their destination made absolute, their flags checked.

use super::outline::{self, Origin};
use super::stage::Planner;
use super::{Action, CopySource, CopyStep, Inline, Problem};
use crate::dockerfile::expand::Style;
use crate::dockerfile::{Add, Copy, Instruction, Node, Transfer};
use crate::ignore::{self, Patterns};
use crate::remote::{GitSource, HttpSource, InvalidSource, Place, is_commit};

impl Planner<'_> {
    pub(super) fn copy(&mut self, node: &Node<Instruction>, copy: &Copy) -> Result<(), Problem> {
        let from = match &copy.from {
            Some(name) => outline::origin(self.file, self.options, self.id, name)?,
            None => Origin::Context,
        };
        let mut step = self.transfer(&copy.transfer, from)?;
        step.parents = copy.parents;
        for source in &step.sources {
            match source {
                CopySource::Path(_) => {}
                CopySource::Http(..) => return Err(Problem::RemoteCopy("URL")),
                CopySource::Git(..) => return Err(Problem::RemoteCopy("git ref")),
            }
        }
        self.transfer_step(node, &copy.transfer, step)
    }

    pub(super) fn add(&mut self, node: &Node<Instruction>, add: &Add) -> Result<(), Problem> {
        let mut step = self.transfer(&add.transfer, Origin::Context)?;
        step.add = true;
        step.unpack = add.unpack.unwrap_or(true);
        if let Some(checksum) = &add.checksum {
            match step.sources.as_mut_slice() {
                [source] => check_with(source, &self.expand(checksum)?)?,
                _ => return Err(Problem::Checksum),
            }
        }
        for source in &mut step.sources {
            match source {
                CopySource::Path(_) => {}
                CopySource::Http(_, unpack) => *unpack = add.unpack.unwrap_or(false),
                CopySource::Git(source, keep) => match (add.keep_git_dir, source.keep_git_dir) {
                    (Some(flag), Some(address)) if flag != address => return Err(Problem::KeepGitDir),
                    (flag, address) => *keep = address.or(flag).unwrap_or(false),
                },
            }
        }
        self.transfer_step(node, &add.transfer, step)
    }

    fn transfer(&self, transfer: &Transfer, from: Origin) -> Result<CopyStep, Problem> {
        let expand = |text: &String| self.expand(text);
        let filled = |text: &Option<String>| -> Result<Option<String>, Problem> {
            Ok(text.as_ref().map(expand).transpose()?.filter(|text| !text.is_empty()))
        };
        let inline = transfer.heredocs.iter().map(|heredoc| {
            let text = heredoc.text();
            let text = if heredoc.expand { self.scope().expand(Style::heredoc(), &text)? } else { text };
            let name = ignore::clean(&format!("/{}", heredoc.name)).trim_start_matches('/').to_owned();
            if name.contains('/') {
                return Err(Problem::HeredocName(heredoc.name.clone()));
            }
            Ok(Inline { name, text })
        });
        let sources = transfer.sources.iter().map(|text| copy_source(expand(text)?));
        let chmod = filled(&transfer.chmod)?;
        check_chmod(chmod.as_deref())?;
        Patterns::new(transfer.excludes.iter().map(String::as_str)).map_err(Problem::Exclude)?;
        Ok(CopyStep {
            add: false,
            from,
            sources: sources.collect::<Result<_, Problem>>()?,
            inline: inline.collect::<Result<_, Problem>>()?,
            destination: self.expand(&transfer.destination)?,
            chown: filled(&transfer.chown)?,
            chmod,
            link: transfer.link,
            parents: false,
            excludes: transfer.excludes.clone(),
            unpack: false,
        })
    }

    /// Writes the history as BuildKit does, with the destination still as it was written.
    fn transfer_step(
        &mut self,
        node: &Node<Instruction>,
        transfer: &Transfer,
        mut step: CopyStep,
    ) -> Result<(), Problem> {
        let mut words = vec![if step.add { "ADD" } else { "COPY" }.to_owned()];
        words.extend(step.parents.then(|| "--parents".to_owned()));
        words.extend(step.chown.iter().map(|chown| format!("--chown={chown}")));
        words.extend(step.chmod.iter().map(|chmod| format!("--chmod={chmod}")));
        for source in &transfer.sources {
            words.push(self.expand(source)?);
        }
        words.extend(transfer.heredocs.iter().map(|heredoc| format!("<<{}", heredoc.name)));
        words.push(step.destination.clone());
        step.destination = absolute(&self.plan.config.run.working_dir, &step.destination, true);
        self.step(format!("{} # buildkit", words.join(" ")), node.span, &node.text, Action::Copy(step));
        Ok(())
    }
}

/// An octal mode must be one; a symbolic mode is read where it is applied.
fn check_chmod(chmod: Option<&str>) -> Result<(), Problem> {
    let Some(chmod) = chmod.filter(|chmod| chmod.starts_with(|first: char| first.is_ascii_digit())) else {
        return Ok(());
    };
    match u32::from_str_radix(chmod, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(()),
        _ => Err(Problem::Chmod(chmod.to_owned())),
    }
}

/// What a source is: a URL, a git repository, or a path.
fn copy_source(text: String) -> Result<CopySource, Problem> {
    if let Some(source) = GitSource::parse(&text, Place::Dockerfile)? {
        return Ok(CopySource::Git(source, false));
    }
    Ok(match HttpSource::parse(&text) {
        Some(source) => CopySource::Http(source, false),
        None => CopySource::Path(text),
    })
}

/// `--checksum`: the digest of a file, or the commit of a repository.
fn check_with(source: &mut CopySource, checksum: &str) -> Result<(), Problem> {
    match source {
        CopySource::Path(_) => Err(Problem::Checksum),
        CopySource::Http(source, _) => {
            let digest = checksum.parse();
            let wrong = |reason| Problem::ChecksumDigest { checksum: checksum.to_owned(), reason };
            source.checksum = Some(digest.map_err(wrong)?);
            Ok(())
        }
        CopySource::Git(source, _) => {
            if !is_commit(checksum) {
                return Err(InvalidSource::Commit(checksum.to_owned()).into());
            }
            let checksum = checksum.to_lowercase();
            match &source.commit {
                Some(commit) if *commit != checksum => {
                    Err(InvalidSource::Conflict { what: "the commit", first: commit.clone(), second: checksum }.into())
                }
                _ => {
                    source.reference.get_or_insert_with(|| checksum.clone());
                    source.commit = Some(checksum);
                    Ok(())
                }
            }
        }
    }
}

/// A path made absolute and cleaned. A slash or `/.` at the end means "into", and can be kept.
pub(super) fn absolute(directory: &str, path: &str, keep_end: bool) -> String {
    let path = if path.is_empty() || path == "." { "./" } else { path };
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("/{directory}/{path}") };
    let mut clean = ignore::clean(&joined).into_owned();
    if keep_end && clean != "/" && (path.ends_with('/') || path.ends_with("/.")) {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        for (directory, path, expected) in [
            ("/w", "x", "/w/x"),
            ("/w", "x/", "/w/x/"),
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "x/.", "/w/x/"),
            ("/w", "../x", "/x"),
            ("/w", "/a//b/../c", "/a/c"),
            ("/", ".", "/"),
            ("", "x", "/x"),
            ("/w", "/../..", "/"),
        ] {
            assert_eq!(absolute(directory, path, true), expected, "{path} in {directory}");
        }
    }

    #[test]
    fn urls_and_repositories() {
        let source = |text: &str| copy_source(text.to_owned()).unwrap();
        assert!(matches!(source("http://x/y"), CopySource::Http(HttpSource { name, .. }, false) if name == "y"));
        for text in ["https://x/y.git#main:sub", "git@github.com:x/y", "ssh://git@x/y"] {
            assert!(matches!(source(text), CopySource::Git(..)), "{text}");
        }
        for text in ["x", "http", "git", "a.git", "github.com/x", "file:///x.git"] {
            assert_eq!(source(text), CopySource::Path(text.to_owned()));
        }
    }
}
