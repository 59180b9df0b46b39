//! The content of a file in quarantine: sealed, opened, and put back as it was.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use writ_common::checkpoint;
use writ_protocol::id::Digest;

use super::super::hash::{Limit, read};
use super::super::place::Place;
use super::Note;

/// Bytes sealed at once; each gets a tag of 16.
const BLOCK: usize = 64 << 10;

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Reads as much as there is, up to a block.
fn read_block(from: &mut impl io::Read, block: &mut Vec<u8>, most: usize) -> io::Result<()> {
    block.clear();
    from.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(block).map(drop)
}

/// Seals a file's content in blocks, each with its number; its SHA-256 and its length.
pub(super) fn seal(
    from: &mut File,
    limit: Limit<'_>,
    to: &Path,
    key: &[u8; 32],
) -> io::Result<(Digest, u64)> {
    let broken = |_| io::Error::other("sealing failed");
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(broken)?;
    let key = LessSafeKey::new(key);
    let mut sealed = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let (mut block, mut number) = (Vec::with_capacity(BLOCK + CHACHA20_POLY1305.tag_len()), 0);
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut write = |block: &mut Vec<u8>| {
        key.seal_in_place_append_tag(nonce(number), Aad::empty(), block).map_err(broken)?;
        number += 1;
        sealed.write_all(block)?;
        block.clear();
        Ok::<_, io::Error>(())
    };
    let bytes = read(from, limit, |mut chunk| {
        context.update(chunk);
        while !chunk.is_empty() {
            let (now, later) = chunk.split_at(chunk.len().min(BLOCK - block.len()));
            block.extend_from_slice(now);
            chunk = later;
            if block.len() == BLOCK {
                write(&mut block)?;
            }
        }
        Ok(())
    })?;
    if !block.is_empty() {
        write(&mut block)?;
    }
    sealed.sync_all()?;
    let digest = Digest::try_from(context.finish().as_ref()).map_err(io::Error::other)?;
    Ok((digest, bytes))
}

pub(super) fn digest(file: &mut File, limit: Limit<'_>) -> io::Result<Digest> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    read(file, limit, |chunk| {
        context.update(chunk);
        Ok(())
    })?;
    Digest::try_from(context.finish().as_ref()).map_err(io::Error::other)
}

/// Where the kernel keeps the access list of a file: acl(5).
const ACCESS: &str = "system.posix_acl_access";

/// The access list of a file; empty: it has none, or its file system knows of none.
pub(super) fn access_list(file: &File) -> io::Result<Vec<u8>> {
    use rustix::io::Errno;
    let mut list = vec![0; 65_536];
    match rustix::fs::fgetxattr(file, ACCESS, list.as_mut_slice()) {
        Ok(bytes) => {
            list.truncate(bytes);
            Ok(list)
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Puts a file back where it was, as it was, unless something is there.
pub(super) fn put_back(sealed: &Path, note: &Note) -> Result<(), String> {
    let path = note.path()?;
    let place = Place::of(&path).map_err(|error| format!("its folder cannot be reached: {error}"))?;
    if place.stat().is_ok() {
        return Err("something has its name now; move that away first".to_owned());
    }
    let folder = rustix::fs::fstat(&place.folder).map_err(|error| error.to_string())?;
    // Whoever may move folders about would have it put where he may not write.
    if folder.st_uid != note.folder_uid {
        return Err("its folder is another user's now".to_owned());
    }
    let name = &note.hidden;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&place.folder, name, flags, Mode::RUSR | Mode::WUSR);
    let mut made = File::from(made.map_err(|error| format!("it cannot be written there: {error}"))?);
    let written = open_into(sealed, &mut made, note).and_then(|()| {
        let fd = made.as_fd();
        let what = |what: &str| {
            let what = what.to_owned();
            move |error: rustix::io::Errno| format!("{what}: {}", io::Error::from(error))
        };
        // The owner first: it takes the bits of mode 6000 away.
        let found = rustix::fs::fstat(fd).map_err(what("it cannot be looked at"))?;
        if (found.st_uid, found.st_gid) != (note.uid, note.gid) {
            let (uid, gid) = (Uid::from_raw(note.uid), Gid::from_raw(note.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(what("it cannot be given to its owner"))?;
        }
        // What it inherited of its folder is not its own.
        let _ = rustix::fs::fremovexattr(fd, ACCESS);
        rustix::fs::fchmod(fd, Mode::from_raw_mode(note.mode)).map_err(what("it cannot have its mode"))?;
        let access = hex::decode(&note.access).unwrap_or_default();
        if !access.is_empty() {
            let set = rustix::fs::fsetxattr(fd, ACCESS, &access, rustix::fs::XattrFlags::empty());
            set.map_err(what("it cannot have its access list"))?;
        }
        let time = |(seconds, nanos): (i64, i64)| Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time(note.accessed), last_modification: time(note.modified) };
        rustix::fs::futimens(fd, &times).map_err(what("it cannot have its times"))?;
        made.sync_all().map_err(|error| error.to_string())?;
        checkpoint!("restore_written");
        let (folder, flags) = (&place.folder, RenameFlags::NOREPLACE);
        rustix::fs::renameat_with(folder, name, folder, &place.name, flags)
            .map_err(what("it cannot have its name"))
    });
    if let Err(why) = written {
        let _ = rustix::fs::unlinkat(&place.folder, name, AtFlags::empty());
        return Err(why);
    }
    place.sync().map_err(|error| error.to_string())
}

/// Writes the content of a sealed file, if it is whole.
fn open_into(sealed: &Path, to: &mut File, note: &Note) -> Result<(), String> {
    let key = note.key()?;
    let damaged = || format!("{}: damaged", sealed.display());
    let mut from = File::open(sealed).map_err(|error| format!("{}: {error}", sealed.display()))?;
    let (mut block, mut number) = (Vec::new(), 0);
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    loop {
        read_block(&mut from, &mut block, BLOCK + CHACHA20_POLY1305.tag_len())
            .map_err(|error| format!("{}: {error}", sealed.display()))?;
        if block.is_empty() {
            break;
        }
        let content = key.open_in_place(nonce(number), Aad::empty(), &mut block).map_err(|_| damaged())?;
        context.update(content);
        to.write_all(content).map_err(|error| error.to_string())?;
        number += 1;
    }
    let found = Digest::try_from(context.finish().as_ref()).map_err(|_| damaged())?;
    if found.to_string() == note.sha256 { Ok(()) } else { Err(damaged()) }
}
