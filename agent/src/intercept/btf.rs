//! Reads the kernel's own type information for the offsets that the programs need.
//!
//! Format: the kernel's documentation, "BPF Type Format (BTF)". Only structures and what leads to
//! them are looked at.

use std::collections::HashMap;

use interlock_agent_common::Offsets;

/// Where the kernel shows its type information.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// What is wrong with the type information.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum BtfError {
    #[error("it ends within {0}")]
    Truncated(&'static str),
    #[error("it does not begin as BTF does")]
    NotBtf,
    #[error("type {id} is of the unknown kind {kind}")]
    UnknownKind { id: u32, kind: u32 },
    #[error("it has no `{0}`")]
    Missing(String),
}

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Typedefs, qualifiers and tags that may stand before a structure; more is not sane.
const CHAIN_MAX: usize = 16;

/// Type information, indexed by type and by structure name.
pub(super) struct Btf<'a> {
    types: Vec<Type<'a>>,
    strings: &'a [u8],
    structures: HashMap<&'a [u8], Vec<u32>>,
}

#[derive(Clone, Copy)]
struct Type<'a> {
    kind: u32,
    /// The members' offsets are bit field encoded.
    bit_fields: bool,
    /// Size, or the type that this one refers to.
    size_or_type: u32,
    members: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

impl<'a> Btf<'a> {
    /// Indexes the types.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, BtfError> {
        let magic = data.get(..2).and_then(|bytes| Some(u16::from_le_bytes(bytes.try_into().ok()?)));
        if magic != Some(MAGIC) {
            return Err(BtfError::NotBtf);
        }
        let section = |offset: usize, length: usize, name| {
            let base = word(data, 4).ok_or(BtfError::Truncated("its header"))? as usize;
            let offset = word(data, offset).ok_or(BtfError::Truncated("its header"))? as usize;
            let length = word(data, length).ok_or(BtfError::Truncated("its header"))? as usize;
            let start = base.checked_add(offset).ok_or(BtfError::Truncated(name))?;
            let end = start.checked_add(length).ok_or(BtfError::Truncated(name))?;
            data.get(start..end).ok_or(BtfError::Truncated(name))
        };
        let mut rest = section(8, 12, "the types")?;
        let strings = section(16, 20, "the strings")?;
        // Type 0 is void.
        let void = Type { kind: 0, bit_fields: false, size_or_type: 0, members: &[] };
        let mut btf = Self { types: vec![void], strings, structures: HashMap::new() };
        while !rest.is_empty() {
            let truncated = BtfError::Truncated("a type");
            let (Some(name), Some(info), Some(size_or_type)) = (word(rest, 0), word(rest, 4), word(rest, 8))
            else {
                return Err(truncated);
            };
            let id = btf.types.len() as u32;
            let kind = info >> 24 & 0x1f;
            let count = (info & 0xffff) as usize;
            let extra = match kind {
                1 | 14 | 17 => 4,                            // INT, VAR, DECL_TAG
                2 | 7 | 8 | 9 | 10 | 11 | 12 | 16 | 18 => 0, // PTR, FWD, TYPEDEF, qualifiers, FUNC, FLOAT, TYPE_TAG
                3 => 12,                                     // ARRAY
                STRUCT | UNION | 15 | 19 => 12 * count,      // DATASEC, ENUM64
                6 | 13 => 8 * count,                         // ENUM, FUNC_PROTO
                _ => return Err(BtfError::UnknownKind { id, kind }),
            };
            let members = rest.get(12..12 + extra).ok_or(truncated)?;
            rest = rest.get(12 + extra..).unwrap_or_default();
            btf.types.push(Type { kind, bit_fields: info >> 31 != 0, size_or_type, members });
            if kind == STRUCT {
                let name = btf.string(name);
                if !name.is_empty() {
                    btf.structures.entry(name).or_default().push(id);
                }
            }
        }
        Ok(btf)
    }

    fn string(&self, at: u32) -> &'a [u8] {
        let bytes = self.strings.get(at as usize..).unwrap_or_default();
        bytes.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Byte offset of a member, however deep: `path` is `a.b.c`. Members of anonymous structures and
    /// unions are found as C finds them.
    pub(super) fn offset(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        let candidates = self.structures.get(structure.as_bytes()).map_or(&[][..], Vec::as_slice);
        candidates
            .iter()
            .find_map(|id| self.walk(*id, path))
            .ok_or_else(|| BtfError::Missing(format!("struct {structure}, {path}")))
    }

    fn walk(&self, mut id: u32, path: &str) -> Option<u32> {
        let mut offset = 0_u32;
        for name in path.split('.') {
            let (at, next) = self.member(id, name.as_bytes(), 0)?;
            offset = offset.checked_add(at)?;
            id = next;
        }
        Some(offset)
    }

    fn member(&self, id: u32, name: &[u8], depth: usize) -> Option<(u32, u32)> {
        if depth > CHAIN_MAX {
            return None;
        }
        let found = self.resolve(id)?;
        for member in found.members.chunks_exact(12) {
            let (own, next, bits) = (word(member, 0)?, word(member, 4)?, word(member, 8)?);
            let bits = if found.bit_fields { bits & 0x00ff_ffff } else { bits };
            let own = self.string(own);
            if own == name {
                return Some((bits / 8, next));
            }
            if own.is_empty()
                && let Some((at, next)) = self.member(next, name, depth + 1)
            {
                return Some((at.checked_add(bits / 8)?, next));
            }
        }
        None
    }

    /// The structure or union behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type<'a>> {
        for _ in 0..CHAIN_MAX {
            let found = *self.types.get(id as usize)?;
            match found.kind {
                STRUCT | UNION => return Some(found),
                8..=11 | 18 => id = found.size_or_type,
                _ => return None,
            }
        }
        None
    }
}

/// Every offset that the programs read with.
pub(super) fn offsets(btf: &Btf<'_>) -> Result<Offsets, BtfError> {
    let at = |structure, path| btf.offset(structure, path);
    // Since 6.1 a cgroup points to its ancestors; before, it holds their ids.
    let (cgroup_ancestors, cgroup_ancestors_are_pointers) = match at("cgroup", "ancestors") {
        Ok(offset) => (offset, 1),
        Err(_) => (at("cgroup", "ancestor_ids")?, 0),
    };
    Ok(Offsets {
        task_tgid: at("task_struct", "tgid")?,
        task_pid: at("task_struct", "pid")?,
        task_group_leader: at("task_struct", "group_leader")?,
        task_start_boottime: at("task_struct", "start_boottime")?,
        task_self_exec_id: at("task_struct", "self_exec_id")?,
        task_mm: at("task_struct", "mm")?,
        task_cred: at("task_struct", "cred")?,
        task_real_parent: at("task_struct", "real_parent")?,
        task_cgroups: at("task_struct", "cgroups")?,
        task_signal: at("task_struct", "signal")?,
        cred_uid: at("cred", "uid")?,
        cred_gid: at("cred", "gid")?,
        mm_exe_file: at("mm_struct", "exe_file")?,
        mm_arg_start: at("mm_struct", "arg_start")?,
        mm_arg_end: at("mm_struct", "arg_end")?,
        file_inode: at("file", "f_inode")?,
        file_flags: at("file", "f_flags")?,
        file_dentry: at("file", "f_path.dentry")?,
        inode_ino: at("inode", "i_ino")?,
        inode_sb: at("inode", "i_sb")?,
        super_dev: at("super_block", "s_dev")?,
        dentry_name: at("dentry", "d_name.name")?,
        bprm_file: at("linux_binprm", "file")?,
        bprm_filename: at("linux_binprm", "filename")?,
        bprm_interp: at("linux_binprm", "interp")?,
        css_set_dfl_cgrp: at("css_set", "dfl_cgrp")?,
        cgroup_kn: at("cgroup", "kn")?,
        cgroup_level: at("cgroup", "level")?,
        cgroup_root: at("cgroup", "root")?,
        cgroup_ancestors,
        cgroup_ancestors_are_pointers,
        kernfs_id: at("kernfs_node", "id")?,
        kernfs_name: at("kernfs_node", "name")?,
        root_hierarchy_id: at("cgroup_root", "hierarchy_id")?,
        signal_live: at("signal_struct", "live.counter")?,
        sock_net: at("sock", "__sk_common.skc_net.net")?,
        net_inum: at("net", "ns.inum")?,
        // Both are choices of who built the kernel.
        task_loginuid: at("task_struct", "loginuid").unwrap_or(0),
        inet_options: at("inet_sock", "inet_opt")?,
        inet_pinet6: at("inet_sock", "pinet6").unwrap_or(0),
        ipv6_options: at("ipv6_pinfo", "opt").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds BTF out of types given as (name offset, info, size or type, rest).
    fn build(strings: &[u8], types: &[(u32, u32, u32, &[u32])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, info, size, rest) in types {
            for word in [*name, *info, *size].iter().chain(rest.iter()) {
                body.extend_from_slice(&word.to_le_bytes());
            }
        }
        let mut data = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, body.len() as u32, body.len() as u32, strings.len() as u32] {
            data.extend_from_slice(&word.to_le_bytes());
        }
        data.extend_from_slice(&body);
        data.extend_from_slice(strings);
        data
    }

    // "\0outer\0a\0inner\0b\0": outer 1, a 7, inner 9, b 15
    const STRINGS: &[u8] = b"\0outer\0a\0inner\0b\0";

    fn sample() -> Vec<u8> {
        build(
            STRINGS,
            &[
                (0, 1 << 24, 4, &[32]),            // 1: int
                (9, 4 << 24 | 1, 8, &[15, 1, 32]), // 2: struct inner { int b at 4 }
                (0, 10 << 24, 2, &[]),             // 3: const inner
                (0, 5 << 24 | 1, 8, &[7, 3, 0]),   // 4: union { const inner a }
                (1, 4 << 24 | 1, 16, &[0, 4, 64]), // 5: struct outer { union at 8 }
            ],
        )
    }

    #[test]
    fn members_are_found_through_anonymous_unions_and_qualifiers() {
        let data = sample();
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.offset("outer", "a.b"), Ok(12));
        assert_eq!(btf.offset("inner", "b"), Ok(4));
        assert!(matches!(btf.offset("outer", "b"), Err(BtfError::Missing(_))));
        assert!(matches!(btf.offset("nowhere", "a"), Err(BtfError::Missing(_))));
    }

    #[test]
    fn cut_off_data_is_an_error_at_every_length() {
        let data = sample();
        for length in 0..data.len() {
            assert!(Btf::parse(&data[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_circle_of_types_ends() {
        // A union that contains itself without a name, and a typedef of itself.
        let data = build(
            STRINGS,
            &[(1, 4 << 24 | 1, 8, &[0, 1, 0]), (0, 8 << 24, 2, &[]), (9, 4 << 24 | 1, 8, &[0, 2, 0])],
        );
        let btf = Btf::parse(&data).unwrap();
        assert!(btf.offset("outer", "b").is_err());
        assert!(btf.offset("inner", "b").is_err());
    }

    #[test]
    fn a_kind_from_the_future_is_named() {
        let data = build(STRINGS, &[(0, 31 << 24, 0, &[])]);
        assert_eq!(Btf::parse(&data).err(), Some(BtfError::UnknownKind { id: 1, kind: 31 }));
    }

    #[test]
    fn the_running_kernel_has_all_that_is_needed() {
        let data = std::fs::read(VMLINUX).unwrap();
        let found = offsets(&Btf::parse(&data).unwrap()).unwrap();
        assert_ne!(found.task_tgid, found.task_pid);
    }
}
