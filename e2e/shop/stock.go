package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	reserveMethod = "/shop.Stock/Reserve"
	watchMethod   = "/shop.Stock/Watch"
	watchPause    = 200 * time.Millisecond
	stockOf       = 100
	soldOut       = "unicorn"
)

// stock answers shop.Stock. Its messages are well-known types, so that nothing has to be generated.
var stock = grpc.ServiceDesc{
	ServiceName: "shop.Stock",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Reserve", Handler: reserve}},
	Streams:     []grpc.StreamDesc{{StreamName: "Watch", Handler: watch, ServerStreams: true}},
}

// serveStock serves until the context ends.
func serveStock(ctx context.Context, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	server.RegisterService(&stock, struct{}{})
	go func() {
		<-ctx.Done()
		time.AfterFunc(shutdownTimeout, server.Stop)
		server.GracefulStop()
	}()
	return server.Serve(listener)
}

// reserve takes one of the item from the shelf.
func reserve(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var item wrapperspb.StringValue
	if err := decode(&item); err != nil {
		return nil, err
	}
	if item.Value == soldOut {
		return nil, status.Error(codes.ResourceExhausted, "sold out")
	}
	return wrapperspb.Int64(stockOf - 1), nil
}

// watch tells the stock of an item again and again.
func watch(_ any, stream grpc.ServerStream) error {
	var item wrapperspb.StringValue
	if err := stream.RecvMsg(&item); err != nil {
		return err
	}
	for left := int64(stockOf); ; left-- {
		if err := stream.SendMsg(wrapperspb.Int64(left)); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(watchPause):
		}
	}
}

// shelf is the client of stock.
type shelf struct{ connection *grpc.ClientConn }

func dialShelf(address string) (shelf, error) {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return shelf{connection}, err
}

// reserve asks for one item. It hands on who is asking, but, as many services do, not the trace.
func (s shelf) reserve(ctx context.Context, item, authorization string) error {
	if authorization != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", authorization)
	}
	var left wrapperspb.Int64Value
	return s.connection.Invoke(ctx, reserveMethod, wrapperspb.String(item), &left)
}

// watchOnce follows the stock of an item for a number of messages.
func (s shelf) watchOnce(ctx context.Context, item string, messages int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.connection.NewStream(ctx, &stock.Streams[0], watchMethod)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(wrapperspb.String(item)); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for range messages {
		var left wrapperspb.Int64Value
		if err := stream.RecvMsg(&left); err != nil {
			return fmt.Errorf("the stock of %s: %w", item, err)
		}
	}
	return nil
}
