package event

import "encoding/json"

// SplitKey takes the text of a key apart: the texts of the columns of a composite
// key, in the order of the master's declaration, or the text itself of a key of one
// column. As a composite key's text is a JSON array of strings, ["eu","7"], a key of
// one column that looks like one is taken for one.
func SplitKey(key string) []string {
	var columns []string
	if len(key) > 0 && key[0] == '[' && json.Unmarshal([]byte(key), &columns) == nil && len(columns) > 1 {
		return columns
	}
	return []string{key}
}
