// Connects to $PGURL by pgx and runs each argument as a query of its own: prepared, values in binary. Prints
// the rows, or the error as the driver has it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

func main() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, os.Getenv("PGURL"))
	if err != nil {
		fmt.Println("not connected:", err)
		os.Exit(1)
	}
	defer conn.Close(ctx)
	for _, query := range os.Args[1:] {
		if err := run(ctx, conn, query); err != nil {
			var refused *pgconn.PgError
			if !errors.As(err, &refused) {
				fmt.Println("failed:", err)
				os.Exit(1)
			}
			fmt.Println(refused.Code, refused.Message)
		}
	}
}

func run(ctx context.Context, conn *pgx.Conn, query string) error {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return err
		}
		fmt.Println(strings.Trim(fmt.Sprint(values), "[]"))
	}
	return rows.Err()
}
