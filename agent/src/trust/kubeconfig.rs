//! A kubeconfig whose clusters trust the authority beside their own.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::pem::{self, Certificate};

const DATA: &str = "certificate-authority-data";
const FILE: &str = "certificate-authority";

#[derive(Debug, Deserialize)]
struct Kubeconfig {
    #[serde(default)]
    clusters: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    #[serde(default)]
    cluster: BTreeMap<String, serde_json::Value>,
}

/// The text with the authority added to what each cluster trusts. All else stays as it is written.
///
/// A cluster that names no authority of its own follows the system's roots and is left alone. `read`
/// gives the contents of a file that is named relative to the kubeconfig.
///
/// # Errors
/// The text is no kubeconfig, or is written in a way that can't be changed line by line.
pub(super) fn with_authority(
    text: &str,
    authority: &[Certificate],
    read: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> anyhow::Result<String> {
    let named = trusted(text)?;
    let expected = named.len();
    let mut changed = 0;
    let mut lines = Vec::new();
    for line in text.lines() {
        let Some((indent, key, value)) = setting(line) else {
            lines.push(line.to_owned());
            continue;
        };
        let own = if key == DATA {
            pem::from_base64(value).context("the certificate-authority-data of a cluster is no Base64")?
        } else {
            read(Path::new(value))
                .with_context(|| format!("cannot read the certificate-authority {value}"))?
        };
        let all = pem::certificates(&own);
        let all =
            pem::bundle("a cluster's own and the Interlock host authority", all.iter().chain(authority));
        lines.push(format!("{indent}{DATA}: {}", pem::base64(all.as_bytes())));
        changed += 1;
    }
    if changed != expected {
        bail!("its {DATA} must each stand on a line of their own (`kubectl config view --raw` writes it so)");
    }
    let mut result = lines.join("\n");
    if text.ends_with('\n') {
        result.push('\n');
    }
    // What is written must still be a kubeconfig with as many clusters that trust something.
    anyhow::ensure!(trusted(&result)?.len() == expected, "changing it line by line would damage it");
    Ok(result)
}

fn trusted(text: &str) -> anyhow::Result<Vec<String>> {
    // The parser's own message could quote a token of the file.
    let config: Kubeconfig =
        serde_saphyr::from_str(text).map_err(|_| anyhow::anyhow!("it is no well-formed kubeconfig"))?;
    let keys = config.clusters.into_iter().flat_map(|named| named.cluster.into_keys());
    Ok(keys.filter(|key| key == DATA || key == FILE).collect())
}

/// The parts of a line that sets what a cluster trusts: what stands before the key, the key, the value.
fn setting(line: &str) -> Option<(&str, &str, &str)> {
    let begins = line.find(|c: char| c != ' ' && c != '-')?;
    let (indent, rest) = line.split_at_checked(begins)?;
    let (key, value) = rest.split_once(':')?;
    let key = key.trim().trim_matches(['"', '\'']);
    let value = value.trim().trim_matches(['"', '\'']);
    ((key == DATA || key == FILE) && !value.is_empty()).then_some((indent, key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> Certificate {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Certificate(made.cert.der().to_vec())
    }

    fn never(_: &Path) -> io::Result<Vec<u8>> {
        Err(io::Error::other("nothing is to be read"))
    }

    #[test]
    fn each_cluster_trusts_the_authority_beside_its_own() {
        let (own, other, authority) = (certificate("own"), certificate("other"), certificate("authority"));
        let text = format!(
            "apiVersion: v1\nkind: Config\n# kept\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    \
             server: https://one:6443\n  name: one\n- name: two\n  cluster:\n    server: https://two\n    \
             certificate-authority: two.pem\n- name: three\n  cluster: {{server: https://three}}\nusers:\n- name: me\n  \
             user: {{token: secret}}\n",
            pem::base64(pem::bundle("own", [&own]).as_bytes())
        );
        let read = |path: &Path| {
            assert_eq!(path, Path::new("two.pem"));
            Ok(pem::bundle("other", [&other]).into_bytes())
        };
        let changed = with_authority(&text, std::slice::from_ref(&authority), &read).unwrap();
        let data: Vec<_> = changed
            .lines()
            .filter_map(|line| line.trim().strip_prefix("certificate-authority-data: "))
            .map(|value| pem::certificates(&pem::from_base64(value).unwrap()))
            .collect();
        assert_eq!(data, [vec![own, authority.clone()], vec![other, authority]]);
        assert!(changed.contains("# kept\n") && changed.contains("token: secret"));
        assert_eq!(changed.lines().count(), text.lines().count());
    }

    #[test]
    fn what_cannot_be_changed_line_by_line_is_refused() {
        let flow = "clusters: [{name: a, cluster: {server: b, certificate-authority-data: QQ==}}]\n";
        let error = with_authority(flow, &[], &never).unwrap_err().to_string();
        assert!(error.contains("line of their own"), "{error}");
        assert!(with_authority("users: [{token: sekret", &[], &never).unwrap_err().to_string().len() < 80);
    }

    #[test]
    fn a_kubeconfig_that_follows_the_system_is_left_as_it_is() {
        let text = "clusters:\n- name: a\n  cluster:\n    server: https://a";
        assert_eq!(with_authority(text, &[certificate("x")], &never).unwrap(), text);
    }
}
