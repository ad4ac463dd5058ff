package servicedb

import (
	"context"
	"strconv"
	"strings"
)

// Page asks for a part of a list: at most Limit rows (0: 100, at most 1000) after Cursor, which is the one
// that came with the part before (empty: from the start).
type Page struct {
	Limit  int
	Cursor string
}

func (p Page) limit() int {
	switch {
	case p.Limit <= 0:
		return 100
	case p.Limit > 1000:
		return 1000
	}
	return p.Limit
}

// cursor names a row by the number that the list is ordered by and the row's name.
func cursor(number int64, name string) string { return strconv.FormatInt(number, 10) + ":" + name }

func splitCursor(text string) (number int64, name string, err error) {
	first, name, found := strings.Cut(text, ":")
	number, err = strconv.ParseInt(first, 10, 64)
	if !found || err != nil {
		return 0, "", invalid("cursor %q: want one that came with a page", text)
	}
	return number, name, nil
}

// conditions builds a WHERE clause.
type conditions struct {
	terms []string
	args  []any
}

func (c *conditions) add(term string, args ...any) {
	c.terms = append(c.terms, term)
	c.args = append(c.args, args...)
}

// equal adds a term for a filter that is set.
func (c *conditions) equal(column, value string) {
	if value != "" {
		c.add(column+" = ?", value)
	}
}

func (c *conditions) where() string {
	if len(c.terms) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.terms, " AND ")
}

type scanner func(into ...any) error

// collect reads all rows of a query.
func collect[Row any](ctx context.Context, q Querier, row func(scanner) (Row, error), query string, args ...any) ([]Row, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Row
	for rows.Next() {
		next, err := row(rows.Scan)
		if err != nil {
			return nil, err
		}
		list = append(list, next)
	}
	return list, rows.Err()
}

// more cuts a list that was asked for with one row too many, and returns the cursor for the rest.
func more[Row any](list []Row, limit int, cursor func(Row) string) ([]Row, string) {
	if len(list) <= limit {
		return list, ""
	}
	return list[:limit], cursor(list[limit-1])
}

func quoted(name string) string { return strconv.Quote(name) }
