//! What a person sees of labs.

use testbed::topology::{Error, Listed, RunningLab};

/// A lab: hosts with their addresses, and every cable as it is now.
pub(super) fn lab(lab: &RunningLab) -> Result<String, Error> {
    let topology = lab.topology();
    let mut hosts = vec![["HOST", "INTERFACES", "VLAN", "ADDRESSES"].map(str::to_owned)];
    for host in &topology.hosts {
        let ends = topology.cables.iter().flat_map(|cable| &cable.ends).filter(|end| end.node == host.name);
        let devices = ends.map(|end| end.device.as_str()).collect::<Vec<_>>();
        let addresses = host.addresses.iter().map(|(_, address)| address.as_str()).collect::<Vec<_>>();
        let vlan = host.vlan.map_or_else(|| "trunk".to_owned(), |vlan| vlan.to_string());
        hosts.push([host.name.clone(), or_dash(&devices), vlan, or_dash(&addresses)]);
    }
    let mut cables = vec![["CABLE", "A", "B", "STATE"].map(str::to_owned)];
    for cable in &topology.cables {
        let [a, b] = cable.ends.each_ref().map(ToString::to_string);
        cables.push([cable.name.clone(), a, b, lab.state(&cable.name)?.to_string()]);
    }
    let head = format!("lab {}: {}, MTU {}", topology.name, topology.counts(), topology.mtu);
    Ok(format!("{head}\n\n{}\n{}", columns(&hosts), columns(&cables)))
}

/// One line a lab.
pub(super) fn list(labs: &[Listed]) -> String {
    if labs.is_empty() {
        return "no lab stands; `vswitch lab up -c FILE` builds one\n".to_owned();
    }
    let mut rows = vec![["LAB", "STATE", "CONTENTS"].map(str::to_owned)];
    for lab in labs {
        rows.push(match &lab.topology {
            Some(topology) => [lab.name.clone(), "up".to_owned(), topology.counts()],
            None => [lab.name.clone(), "half built".to_owned(), format!("clean up by `vswitch lab down {}`", lab.name)],
        });
    }
    columns(&rows)
}

fn or_dash(words: &[&str]) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

/// Rows as lines, two blanks between columns, none at the end of a line.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
