// Command tlog-oracle checks streams and proofs with the libraries of transparency-dev: one JSON object on a line of standard
// input, what does not hold on standard error.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"

	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

const lineBytesMax = 16 << 20

type input struct {
	// A stream: its bodies in order, and its heads with the key that must have signed each.
	Bodies []string `json:"bodies"`
	Heads  []struct {
		Note string `json:"note"`
		Key  string `json:"key"`
	} `json:"heads"`
	// Inclusion of bodies in heads, and consistency between sizes.
	Inclusion []struct {
		Index uint64   `json:"index"`
		Size  uint64   `json:"size"`
		Proof []string `json:"proof"`
	} `json:"inclusion"`
	Consistency []struct {
		Old   uint64   `json:"old"`
		New   uint64   `json:"new"`
		Proof []string `json:"proof"`
	} `json:"consistency"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineBytesMax)
	checked := 0
	for lines.Scan() {
		var in input
		err := json.Unmarshal(lines.Bytes(), &in)
		if err == nil {
			err = check(in, &checked)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(checked)
}

func check(in input, checked *int) error {
	hasher := rfc6962.DefaultHasher
	ranges := (&compact.RangeFactory{Hash: hasher.HashChildren}).NewEmptyRange(0)
	roots := [][]byte{hasher.EmptyRoot()}
	leaves := [][]byte{}
	for _, body := range in.Bodies {
		leaf := hasher.HashLeaf([]byte(body))
		leaves = append(leaves, leaf)
		if err := ranges.Append(leaf, nil); err != nil {
			return err
		}
		root, err := ranges.GetRootHash(nil)
		if err != nil {
			return err
		}
		roots = append(roots, root)
	}
	for _, head := range in.Heads {
		if err := checkHead(head.Note, head.Key, roots); err != nil {
			return err
		}
		*checked++
	}
	for _, p := range in.Inclusion {
		hashes, err := decode(p.Proof)
		if err != nil {
			return err
		}
		if err := proof.VerifyInclusion(hasher, p.Index, p.Size, leaves[p.Index], hashes, roots[p.Size]); err != nil {
			return fmt.Errorf("inclusion of %d in %d: %w", p.Index, p.Size, err)
		}
		*checked++
	}
	for _, p := range in.Consistency {
		hashes, err := decode(p.Proof)
		if err != nil {
			return err
		}
		if err := proof.VerifyConsistency(hasher, p.Old, p.New, hashes, roots[p.Old], roots[p.New]); err != nil {
			return fmt.Errorf("consistency of %d with %d: %w", p.Old, p.New, err)
		}
		*checked++
	}
	return nil
}

func checkHead(text, key string, roots [][]byte) error {
	var checkpoint log.Checkpoint
	if _, err := checkpoint.Unmarshal([]byte(text)); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	public, err := hex.DecodeString(key)
	if err != nil {
		return err
	}
	vkey, err := note.NewEd25519VerifierKey(checkpoint.Origin, public)
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	parsed, _, opened, err := log.ParseCheckpoint([]byte(text), checkpoint.Origin, verifier)
	if err != nil {
		return fmt.Errorf("head of size %d: %w", checkpoint.Size, err)
	}
	if len(opened.Sigs) != 1 || parsed.Size >= uint64(len(roots)) || string(parsed.Hash) != string(roots[parsed.Size]) {
		return fmt.Errorf("head of size %d: another root, or not one signature", checkpoint.Size)
	}
	return nil
}

func decode(hashes []string) ([][]byte, error) {
	decoded := [][]byte{}
	for _, hash := range hashes {
		bytes, err := base64.StdEncoding.DecodeString(hash)
		if err != nil {
			return nil, err
		}
		decoded = append(decoded, bytes)
	}
	return decoded, nil
}
